"""Evaluation images."""
