"""Curves over training: as they were logged, and where they turn."""
