"""The program from Python: `from alignbench import run, load_results`."""
