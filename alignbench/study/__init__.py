"""Blind votes of people on the images of runs: asked on a local page, kept in SQLite, counted like every evaluator."""
