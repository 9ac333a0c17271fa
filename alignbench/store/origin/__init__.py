"""Where a run comes from: the program that made it, the runs that a soup mixes, the capsule that it came in."""
