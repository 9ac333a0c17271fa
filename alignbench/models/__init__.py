"""Model families: all that differs between one and another."""
