"""Model families: all that differs between Stable Diffusion and FLUX."""
