"""Packing of recorded datasets."""
