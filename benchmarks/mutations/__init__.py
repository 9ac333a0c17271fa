"""Mistakes in the adapters of model families that are made on purpose, each of which a test has to find."""
