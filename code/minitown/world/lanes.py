"""Lanes: center lines with headings, speed limits and successors.

World frame: x east, y south (meters, left-handed); headings are yaw angles, positive
from x to y, so they increase in a right turn. Traffic drives on the right.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from thinktwice.geometry.route_planner import RoadOption

LANE_WIDTH = 3.5
LANE_OFFSET = LANE_WIDTH / 2
STEP = 0.5
"""Approximate spacing of center-line points, meters."""


@dataclass
class Lane:
    """One directed lane of a street, or a connector: one way through a junction.

    Attributes:
        index: Position in the layout's list.
        points: (N, 2) center line, meters in the world frame, about `STEP` apart.
        headings: (N,) radians, continuous.
        option: Road option of the lane, `LANE_FOLLOW` outside junctions.
        start, end: Junction indices; both the same for a connector.
        heading_index: Heading at the lane's end in the town's grid, in quarter turns 0..3.
        is_connector: Whether this is a way through a junction.
        speed_limit: m/s.
        successors: Lanes that may follow.
        conflicts: Connectors of the same junction that must not be used at the same time.
        siblings: Connectors that start at the end of the same lane.
        crosswalk: Distance of the crosswalk along the lane, None without one.
        crosswalk_index: Position of that crosswalk in the layout's list.
    """

    index: int
    points: np.ndarray
    headings: np.ndarray
    option: RoadOption
    start: int
    end: int
    heading_index: int
    is_connector: bool
    speed_limit: float
    successors: list[int] = field(default_factory=list)
    conflicts: frozenset[int] = frozenset()
    siblings: frozenset[int] = frozenset()
    crosswalk: float | None = None
    crosswalk_index: int = -1

    def __post_init__(self) -> None:
        lengths = np.hypot(*np.diff(self.points, axis=0).T)
        self.length = float(lengths.sum())
        self._spacing = self.length / (len(self.points) - 1)
        self._x, self._y = self.points[:, 0].tolist(), self.points[:, 1].tolist()
        self._heading = self.headings.tolist()

    def pose(self, distance: float) -> tuple[float, float, float]:
        """Return x, y, yaw at `distance` meters along the lane, clamped to its ends."""
        place = min(max(distance / self._spacing, 0.0), len(self._x) - 1.0)
        index = min(int(place), len(self._x) - 2)
        share = place - index
        return (
            self._x[index] + share * (self._x[index + 1] - self._x[index]),
            self._y[index] + share * (self._y[index + 1] - self._y[index]),
            self._heading[index] + share * (self._heading[index + 1] - self._heading[index]),
        )


def direction(quarter: int) -> np.ndarray:
    """Return the unit vector (2,) of a heading given in quarter turns from +x to +y."""
    return np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][quarter % 4])


def straight_line(start: np.ndarray, end: np.ndarray, quarter: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 2) and headings (N,) of a straight center line."""
    count = max(2, round(float(np.linalg.norm(end - start)) / STEP) + 1)
    share = np.linspace(0.0, 1.0, count)[:, None]
    return start + share * (end - start), np.full(count, quarter * math.pi / 2)


def turn_line(start: np.ndarray, quarter: int, side: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 2) and headings (N,) of a quarter circle to the right (side 1) or left (-1)."""
    center = start + side * radius * direction(quarter + 1)
    count = max(3, round(radius * math.pi / 2 / STEP) + 1)
    angle = np.linspace(0.0, math.pi / 2, count) * side
    headings = quarter * math.pi / 2 + angle
    outward = np.stack([np.sin(headings), -np.cos(headings)], axis=1) * side
    return center + radius * outward, headings


def find_conflicts(lanes: list[Lane], connectors: list[int], gap: float = 2.6) -> None:
    """Fill `conflicts` and `siblings` of the connectors of one junction.

    Two connectors conflict where their center lines come nearer than `gap` meters, unless
    they start at the same lane, where vehicles follow each other anyway.
    """
    for first in connectors:
        found, siblings = set(), set()
        for second in connectors:
            if first == second:
                continue
            if np.allclose(lanes[first].points[0], lanes[second].points[0]):
                siblings.add(second)
                continue
            offset = lanes[first].points[:, None] - lanes[second].points[None]
            if (offset**2).sum(-1).min() < gap**2:
                found.add(second)
        lanes[first].conflicts = frozenset(found)
        lanes[first].siblings = frozenset(siblings)
