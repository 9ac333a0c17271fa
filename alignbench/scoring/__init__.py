"""Scores of images by evaluators."""
