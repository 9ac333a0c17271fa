"""The model families: a module each, which holds its adapter."""
