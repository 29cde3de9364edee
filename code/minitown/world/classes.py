"""Semantic classes, codes of the ground map and states of traffic lights.

The class ids are those of the CARLA 0.9.10 simulator, which the recorded datasets
use; the town contains a subset of them.
"""

import numpy as np

BUILDING = 1
FENCE = 2
PEDESTRIAN = 4
POLE = 5
ROAD_LINE = 6
ROAD = 7
SIDEWALK = 8
VEGETATION = 9
VEHICLE = 10
TRAFFIC_SIGN = 12
SKY = 13
TRAFFIC_LIGHT = 18
TERRAIN = 22

# Codes of the ground map: what covers a cell of the ground plane.
GROUND_TERRAIN = 0
GROUND_ROAD = 1
GROUND_SOLID_LINE = 2
GROUND_BROKEN_LINE = 3
GROUND_SIDEWALK = 4
GROUND_CROSSING = 5

GROUND_TO_CLASS = np.array([TERRAIN, ROAD, ROAD_LINE, ROAD_LINE, SIDEWALK, ROAD_LINE], dtype=np.uint8)
"""Semantic class of each ground code."""

GROUND_COLORS = np.array(
    [(92, 116, 62), (74, 75, 78), (222, 222, 216), (222, 216, 190), (156, 148, 140), (214, 214, 208)],
    dtype=np.float32,
)
"""Base RGB color of each ground code."""

# States of a traffic light; also the `state` of its primitive.
GREEN = 0
YELLOW = 1
RED = 2
