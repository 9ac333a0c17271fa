"""Model families: all that differs between Stable Diffusion 1.x, XL and 3 and FLUX."""
