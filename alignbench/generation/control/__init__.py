"""What a ControlNet is shown: maps of edges or depth, given or made of pictures."""
