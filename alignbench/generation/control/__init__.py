"""Sampling with a ControlNet: maps of edges or depth, given or made from pictures."""
