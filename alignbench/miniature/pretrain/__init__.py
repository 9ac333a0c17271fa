"""Pretrain the shipped networks of the shapes world, from rendered scenes to weights in half precision."""
