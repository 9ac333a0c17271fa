"""Which cells a sweep has, how each of them stands, and who runs them."""
