"""Ranks of a run: start-up and collectives."""
