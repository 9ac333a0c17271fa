"""Figures with their uncertainty: medians, win rates, rankings, diversity."""
