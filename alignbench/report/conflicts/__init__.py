"""What of a results folder cannot stand in one table, and why it is left out."""
