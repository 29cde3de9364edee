"""The official checkpoint: names and layouts of its entries, conversion and adaptation."""
