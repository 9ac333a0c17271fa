"""Evaluators that ask a model questions about an image; they share one core and what it was answered."""
