"""Compare and apply alignment methods for text-to-image diffusion and flow models."""
