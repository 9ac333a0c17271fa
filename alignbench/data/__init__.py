"""Training data, prompt sets and existing images."""
