"""What people voted: studies on the disk, ballots, preferences, agreement."""
