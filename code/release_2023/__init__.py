"""The 2023 release: its numerics, its data rules and its checkpoint, apart from the main line."""
