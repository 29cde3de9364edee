"""Checkpoints: their files, the folder of a run that holds them, weights for a model, pretrained weights."""
