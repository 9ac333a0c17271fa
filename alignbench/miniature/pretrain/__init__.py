"""How the shipped networks of the shapes world are made, from rendered scenes to weights in half precision."""
