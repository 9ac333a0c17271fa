"""Tables and pictures made from scores."""
