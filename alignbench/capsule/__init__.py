"""Hand in runs as one file, check such files, and bring them into a results folder."""
