"""Folders of data as people have them, and the sources that read them."""

from tests.data.conftest import encoded, source

__all__ = ["encoded", "source"]
