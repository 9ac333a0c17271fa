"""Preference sources, their views, and prompt sets."""
