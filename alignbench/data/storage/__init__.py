"""How images and tensors are stored on disk and read."""
