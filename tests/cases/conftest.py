"""What situations of users are made of: folders of data, and the results folders of the report's tests."""

from tests.data.conftest import encoded, source
from tests.report.conftest import small_table, world

__all__ = ["encoded", "small_table", "source", "world"]
