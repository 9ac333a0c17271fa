"""Every setting of the command line: its type, range or choices, its default, its meaning and its source."""
