"""From samples to batches: order, crops, encoding, caches."""
