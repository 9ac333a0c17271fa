"""What is on the disk: run folders, scores, and what they record of their origin."""
