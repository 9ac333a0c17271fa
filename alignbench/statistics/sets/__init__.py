"""Measures of sets of images, by the feature vectors of their images."""
