"""What was typed, checked before anything heavy loads, and what it builds."""
