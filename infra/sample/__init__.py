"""The demo's sample: a small real service with a real fault, and the proof that a fix cures it."""
