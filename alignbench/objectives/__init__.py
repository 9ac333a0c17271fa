"""What the losses of methods are computed from: denoising errors and inverted latents."""
