"""The tracker's service: one module for each noun, and main.py with the routes."""
