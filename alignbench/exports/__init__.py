"""What leaves a results folder: pages for weights, and images with their scores as a data set."""
