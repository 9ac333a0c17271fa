"""From samples to batches: order, crops, encoding and caches."""
