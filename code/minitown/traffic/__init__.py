"""Everything that moves: the ego, other vehicles, pedestrians, and traffic lights."""
