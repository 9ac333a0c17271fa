"""Measuring a run in parts, to stop as soon as its win rate over base is significant."""
