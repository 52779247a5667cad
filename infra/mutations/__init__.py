"""Mutations: every policy, grant, fence and guard is taken away in turn, and some test must notice."""
