"""Measurements of the data loader and of training."""
