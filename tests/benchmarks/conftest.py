"""Benchmarks of training steps are tested with the batches and toy models of methods."""

from tests.methods.conftest import kit  # noqa: F401
