"""Pedestrians: some walk along the sidewalks, others cross the street at crosswalks."""

import math
from dataclasses import dataclass

import numpy as np

from thinktwice.geometry.poses import world_to_ego
from thinktwice.minitown.traffic.vehicles import Vehicle
from thinktwice.minitown.world.lanes import LANE_OFFSET
from thinktwice.minitown.world.layout import Crosswalk, Layout

EDGE = 5.0
"""Where a pedestrian waits to cross, meters from the center line of the street."""
LANE_MARGIN = 2.4
SIDEWALK_MIDDLE = 5.2
PATH_SHARES = np.linspace(0.0, 1.0, 21)[:, None]
SIDE_CLEARANCE = 1.0
"""Where a path is compared with a vehicle off its lane, as shares of the path's length, and the space that a
pedestrian leaves beside that vehicle, meters."""


@dataclass
class Pedestrian:
    """A pedestrian who walks back and forth on a straight path.

    Attributes:
        index: Position in the crowd's list.
        start, end: (2,) world positions of the ends of the path, meters; they do not change.
        length: Of the path, meters.
        along: Meters from `start`.
        forward: 1 toward `end`, -1 toward `start`.
        pace: Walking speed, m/s.
        speed: Current speed, m/s.
        crosswalk: Index of the crosswalk that the path follows, -1 on a sidewalk.
        wait: Seconds until the pedestrian wants to cross.
    """

    index: int
    start: np.ndarray
    end: np.ndarray
    along: float
    forward: int
    pace: float
    color: tuple[float, float, float]
    crosswalk: int = -1
    speed: float = 0.0
    wait: float = 0.0

    def __post_init__(self) -> None:
        way = self.end - self.start
        self.length = float(np.hypot(*way))
        self._x, self._y = self.start.tolist()
        self._unit_x, self._unit_y = (way / self.length).tolist()
        self._yaws = {
            1: math.atan2(self._unit_y, self._unit_x),
            -1: math.atan2(-self._unit_y, -self._unit_x),
        }

    @property
    def pose(self) -> tuple[float, float, float]:
        """World x, y in meters, yaw in radians."""
        x, y = self._x + self.along * self._unit_x, self._y + self.along * self._unit_y
        return x, y, self._yaws[self.forward]


class Crowd:
    """All pedestrians of a drive."""

    def __init__(self, layout: Layout, rng: np.random.Generator, sidewalk_chance: float = 0.7) -> None:
        self.layout = layout
        self.rng = rng
        self.pedestrians: list[Pedestrian] = []
        for first, second, quarter in layout.streets:
            for side in (-1, 1):
                if rng.random() < sidewalk_chance:
                    self._add_on_sidewalk(first, second, quarter, side)
        for index, crosswalk in enumerate(layout.crosswalks):
            for _ in range(int(rng.integers(1, 3))):
                self._add_at_crosswalk(index, crosswalk)
        self._by_crosswalk = [
            [pedestrian for pedestrian in self.pedestrians if pedestrian.crosswalk == index]
            for index in range(len(layout.crosswalks))
        ]

    def _color(self) -> tuple[float, float, float]:
        red, green, blue = self.rng.uniform(60, 230, 3)
        return float(red), float(green), float(blue)

    def _add_on_sidewalk(self, first: int, second: int, quarter: int, side: int) -> None:
        a, b = self.layout.junctions[first].center, self.layout.junctions[second].center
        ahead = (b - a) / np.linalg.norm(b - a)
        beside = side * SIDEWALK_MIDDLE * np.array([-ahead[1], ahead[0]])
        start, end = (
            self.layout.to_world(a + 12 * ahead + beside),
            self.layout.to_world(b - 12 * ahead + beside),
        )
        pedestrian = Pedestrian(
            index=len(self.pedestrians),
            start=start,
            end=end,
            along=float(self.rng.uniform(0, np.linalg.norm(end - start))),
            forward=int(self.rng.choice([-1, 1])),
            pace=float(self.rng.uniform(0.8, 1.7)),
            color=self._color(),
        )
        pedestrian.speed = pedestrian.pace
        self.pedestrians.append(pedestrian)

    def _add_at_crosswalk(self, index: int, crosswalk: Crosswalk) -> None:
        along_street = np.array([crosswalk.across[1], -crosswalk.across[0]])
        middle = crosswalk.center + float(self.rng.uniform(-1.1, 1.1)) * along_street
        pedestrian = Pedestrian(
            index=len(self.pedestrians),
            start=middle - EDGE * crosswalk.across,
            end=middle + EDGE * crosswalk.across,
            along=0.0,
            forward=1,
            pace=float(self.rng.uniform(1.2, 2.0)),
            color=self._color(),
            crosswalk=index,
            wait=float(self.rng.uniform(0.0, 8.0)),
        )
        if self.rng.random() < 0.5:
            pedestrian.along, pedestrian.forward = pedestrian.length, -1
        self.pedestrians.append(pedestrian)

    def is_blocked(self, crosswalk: int, lane: int) -> bool:
        """Whether a pedestrian is on, or walks toward, the part of a crosswalk on `lane`."""
        for pedestrian in self._by_crosswalk[crosswalk]:
            if pedestrian.speed == 0.0:
                continue
            beside = pedestrian.along - EDGE
            lane_at = LANE_OFFSET if lane == self.layout.crosswalks[crosswalk].lanes[0] else -LANE_OFFSET
            ahead = (lane_at - beside) * pedestrian.forward
            if ahead > -LANE_MARGIN:
                return True
        return False

    def step(self, seconds: float, vehicles: list[Vehicle]) -> None:
        """Advance all pedestrians by `seconds`."""
        for pedestrian in self.pedestrians:
            if pedestrian.crosswalk >= 0 and pedestrian.speed == 0.0:
                pedestrian.wait -= seconds
                if pedestrian.wait > 0 or not self._can_cross(pedestrian, vehicles):
                    continue
                pedestrian.speed = pedestrian.pace
            pedestrian.along += pedestrian.forward * pedestrian.speed * seconds
            if 0.0 < pedestrian.along < pedestrian.length:
                continue
            pedestrian.along = min(max(pedestrian.along, 0.0), pedestrian.length)
            pedestrian.forward = -pedestrian.forward
            if pedestrian.crosswalk >= 0:
                pedestrian.speed, pedestrian.wait = 0.0, float(self.rng.uniform(3.0, 12.0))

    def _can_cross(self, pedestrian: Pedestrian, vehicles: list[Vehicle]) -> bool:
        """Whether every approaching vehicle has stopped or can still brake comfortably."""
        crosswalk = self.layout.crosswalks[pedestrian.crosswalk]
        for vehicle in vehicles:
            if not vehicle.is_on_lane:
                if self._meets(pedestrian, vehicle):
                    return False
                continue
            for place, lane_index in enumerate(vehicle.route[:2]):
                if lane_index not in crosswalk.lanes:
                    continue
                lane = self.layout.lanes[lane_index]
                before = self.layout.lanes[vehicle.route[0]].length if place else 0.0
                if _is_approaching(vehicle, before + (lane.crosswalk or 0.0) - vehicle.distance):
                    return False
        return True

    @staticmethod
    def _meets(pedestrian: Pedestrian, vehicle: Vehicle) -> bool:
        """Whether a vehicle that is off its lane stands on a pedestrian's path or heads for it."""
        path = pedestrian.start + PATH_SHARES * (pedestrian.end - pedestrian.start)
        ahead, aside = world_to_ego(path, vehicle.pose).T
        in_way = np.abs(aside) < vehicle.half[1] + SIDE_CLEARANCE
        return any(_is_approaching(vehicle, distance) for distance in ahead[in_way].tolist())


def _is_approaching(vehicle: Vehicle, distance: float) -> bool:
    """Whether a vehicle is on a crosswalk, or too close to brake comfortably.

    Args:
        vehicle: In question.
        distance: From its center to the crosswalk, meters.
    """
    to_line = distance - 3.0 - vehicle.half[0]
    is_near = -8.0 - 2 * vehicle.half[0] < to_line < vehicle.speed**2 / (2 * 2.0) + 2.0
    return is_near and (vehicle.speed > 0.3 or to_line < -1.0)
