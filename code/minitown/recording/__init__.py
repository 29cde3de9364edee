"""Writing drives to disk in the format of the CARLA dataset."""
