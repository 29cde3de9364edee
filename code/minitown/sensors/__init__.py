"""What the ego vehicle sees: cameras and LiDAR."""
