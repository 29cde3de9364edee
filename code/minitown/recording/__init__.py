"""Writing drives to disk in the dataset's format."""
