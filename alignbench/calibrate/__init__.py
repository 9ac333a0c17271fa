"""Compare evaluators with the official packages they stand for."""
