"""What moves in a town: vehicles, pedestrians, traffic lights."""
