"""Data sets of the Hugging Face hub: which columns hold what, how rows are streamed, and where they are kept."""
