"""What is printed at the terminal when a run or a sweep is done."""
