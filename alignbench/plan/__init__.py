"""Say before anything is made what a win rate needs to be seen."""
