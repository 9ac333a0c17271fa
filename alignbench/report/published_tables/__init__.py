"""Printed figures of papers, and how ours compare with them."""
