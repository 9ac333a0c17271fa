"""Where weights are, in which layout, and how they are read and written."""
