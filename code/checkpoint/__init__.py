"""Checkpoint files: written whole or not at all, read as data."""
