"""The results folders of the report's tests."""

from tests.report.conftest import small_table, world

__all__ = ["small_table", "world"]
