"""How time and memory of commands grow with what they are given."""
