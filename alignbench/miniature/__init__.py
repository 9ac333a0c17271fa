"""The shapes world: a small text-to-image universe in which the truth is known."""
