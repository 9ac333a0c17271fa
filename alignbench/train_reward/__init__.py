"""Fit a judge to pairs, so that a model can be aligned with the taste of those who judged them."""
