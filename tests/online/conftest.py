"""Online methods are tested with the toy models of methods."""

from tests.methods.conftest import kit, make_model  # noqa: F401
