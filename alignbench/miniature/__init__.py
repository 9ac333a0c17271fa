"""The shapes world: a small text-to-image world in which it is known how well an image fits its prompt."""
