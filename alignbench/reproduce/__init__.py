"""Run the rows of published tables again, and say whether their figures come out."""
