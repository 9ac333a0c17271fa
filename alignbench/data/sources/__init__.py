"""Data sets: one module a format."""
