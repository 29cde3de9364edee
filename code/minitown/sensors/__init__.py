"""Cameras and LiDAR, ray-cast on a scene."""
