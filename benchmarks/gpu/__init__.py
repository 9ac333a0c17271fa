"""What one GPU shows of this program in a few minutes; `python -m benchmarks.gpu --help`."""
