"""Comparers: models that see two images of a prompt and say which is better."""
