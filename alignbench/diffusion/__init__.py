"""Noise schedules, samplers and noise levels: the mathematics of diffusion and rectified flow, without networks."""
