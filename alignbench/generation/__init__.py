"""Generate evaluation images."""
