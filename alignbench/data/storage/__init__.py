"""How images and tensors lie on the disk and are read."""
