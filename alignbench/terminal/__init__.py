"""What programs print at a terminal, and how they end."""
