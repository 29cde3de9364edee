"""The official checkpoint: names, layouts, conversion and adaptation of its weights."""
