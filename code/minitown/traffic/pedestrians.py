"""People: strollers on the sidewalks and people who cross at the zebras."""

import math
from dataclasses import dataclass

import numpy as np

from thinktwice.minitown.traffic.vehicles import Vehicle
from thinktwice.minitown.world.lanes import LANE_OFFSET
from thinktwice.minitown.world.layout import Crosswalk, Layout

EDGE = 5.0
"""Where a person waits, meters from the middle of the street."""
ROAD_EDGE = 3.9
LANE_MARGIN = 2.4
SIDEWALK_MIDDLE = 5.2


@dataclass
class Pedestrian:
    """One person.

    Attributes:
        index: number among all people.
        start, end: (2,) world ends of the path, walked to and fro.
        along: meters from `start`.
        forward: 1 towards `end`, -1 back.
        pace: walking speed when moving, m/s.
        speed: present speed, m/s.
        crosswalk: index of the zebra, -1 for strollers.
        wait: seconds until the person wants to cross.
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

    @property
    def length(self) -> float:
        """Length of the path, meters."""
        return float(np.hypot(*(self.end - self.start)))

    @property
    def pose(self) -> tuple[float, float, float]:
        """World x, y, yaw."""
        unit = (self.end - self.start) / self.length
        x, y = self.start + self.along * unit
        return float(x), float(y), math.atan2(*(unit * self.forward)[::-1])


class Crowd:
    """All people of a drive."""

    def __init__(self, layout: Layout, rng: np.random.Generator, strollers_per_street: float = 0.7) -> None:
        self.layout = layout
        self.rng = rng
        self.people: list[Pedestrian] = []
        for first, second, quarter in layout.streets:
            for side in (-1, 1):
                if rng.random() < strollers_per_street:
                    self._add_stroller(first, second, quarter, side)
        for index, crosswalk in enumerate(layout.crosswalks):
            for _ in range(int(rng.integers(1, 3))):
                self._add_crosser(index, crosswalk)

    def _color(self) -> tuple[float, float, float]:
        red, green, blue = self.rng.uniform(60, 230, 3)
        return float(red), float(green), float(blue)

    def _add_stroller(self, first: int, second: int, quarter: int, side: int) -> None:
        a, b = self.layout.junctions[first].center, self.layout.junctions[second].center
        ahead = (b - a) / np.linalg.norm(b - a)
        beside = side * SIDEWALK_MIDDLE * np.array([-ahead[1], ahead[0]])
        start, end = (
            self.layout.to_world(a + 12 * ahead + beside),
            self.layout.to_world(b - 12 * ahead + beside),
        )
        person = Pedestrian(
            index=len(self.people),
            start=start,
            end=end,
            along=float(self.rng.uniform(0, np.linalg.norm(end - start))),
            forward=int(self.rng.choice([-1, 1])),
            pace=float(self.rng.uniform(0.8, 1.7)),
            color=self._color(),
        )
        person.speed = person.pace
        self.people.append(person)

    def _add_crosser(self, index: int, crosswalk: Crosswalk) -> None:
        along_street = np.array([crosswalk.across[1], -crosswalk.across[0]])
        middle = crosswalk.center + float(self.rng.uniform(-1.1, 1.1)) * along_street
        person = Pedestrian(
            index=len(self.people),
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
            person.along, person.forward = person.length, -1
        self.people.append(person)

    def is_blocked(self, crosswalk: int, lane: int) -> bool:
        """Whether somebody is on, or walks towards, the part of a zebra that lies on `lane`."""
        for person in self.people:
            if person.crosswalk != crosswalk or person.speed == 0.0:
                continue
            beside = person.along - EDGE
            lane_at = LANE_OFFSET if lane == self.layout.crosswalks[crosswalk].lanes[0] else -LANE_OFFSET
            ahead = (lane_at - beside) * person.forward
            if ahead > -LANE_MARGIN:
                return True
        return False

    def step(self, seconds: float, vehicles: list[Vehicle]) -> None:
        """Advance everybody by `seconds`."""
        for person in self.people:
            if person.crosswalk >= 0 and person.speed == 0.0:
                person.wait -= seconds
                if person.wait > 0 or not self._can_cross(person, vehicles):
                    continue
                person.speed = person.pace
            person.along += person.forward * person.speed * seconds
            if 0.0 < person.along < person.length:
                continue
            person.along = min(max(person.along, 0.0), person.length)
            person.forward = -person.forward
            if person.crosswalk >= 0:
                person.speed, person.wait = 0.0, float(self.rng.uniform(3.0, 12.0))

    def _can_cross(self, person: Pedestrian, vehicles: list[Vehicle]) -> bool:
        """Whether every car that comes can still stop in comfort; somebody near makes people step out."""
        crosswalk = self.layout.crosswalks[person.crosswalk]
        for vehicle in vehicles:
            for place, lane_index in enumerate(vehicle.route[:2]):
                if lane_index not in crosswalk.lanes:
                    continue
                lane = self.layout.lanes[lane_index]
                before = self.layout.lanes[vehicle.route[0]].length if place else 0.0
                to_line = (before + (lane.crosswalk or 0.0) - vehicle.distance) - 3.0 - vehicle.half[0]
                is_near = -8.0 - 2 * vehicle.half[0] < to_line < vehicle.speed**2 / (2 * 2.0) + 2.0
                if is_near and (vehicle.speed > 0.3 or to_line < -1.0):
                    return False
        return True
