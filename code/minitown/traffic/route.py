"""The ego's route: consecutive lanes joined into one polyline."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from thinktwice.geometry.route_planner import RoadOption, RouteNode
from thinktwice.minitown.world.lanes import Lane

TURN_WEIGHTS = {
    RoadOption.LEFT: 0.42,
    RoadOption.RIGHT: 0.33,
    RoadOption.STRAIGHT: 0.25,
    RoadOption.LANE_FOLLOW: 1.0,
}
"""Relative probabilities of turns; left turns yield most and so would be under-represented."""


def sample_route(lanes: list[Lane], start: int, length: float, rng: np.random.Generator) -> list[int]:
    """Return lane indices from `start` on, at least `length` meters long in total."""
    route, covered = [start], lanes[start].length
    while covered < length or lanes[route[-1]].is_connector:
        choices = lanes[route[-1]].successors
        weights = np.array([TURN_WEIGHTS[lanes[index].option] for index in choices])
        chosen = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
        route.append(chosen)
        covered += lanes[chosen].length
    return route


@dataclass
class Route:
    """A polyline over several lanes.

    Attributes:
        lane_indices: In driving order.
        points: (N, 2) meters in the world frame.
        along: (N,) distance of each point from the start, meters.
        starts: Distance at which each lane begins, meters.
        options: Road option of each lane.
    """

    lane_indices: list[int]
    points: np.ndarray
    along: np.ndarray
    starts: list[float]
    options: list[RoadOption]

    @classmethod
    def over(cls, lanes: list[Lane], lane_indices: list[int]) -> 'Route':
        """Join lanes; each must end where the next begins."""
        parts = [lanes[lane_indices[0]].points]
        parts += [lanes[index].points[1:] for index in lane_indices[1:]]
        joined = np.concatenate(parts)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(joined, axis=0).T))])
        starts, total = [], 0.0
        for index in lane_indices:
            starts.append(total)
            total += lanes[index].length
        # In Fortran order x and y are contiguous columns, which np.interp need not copy in every call.
        points = np.asfortranarray(joined)
        return cls(lane_indices, points, along, starts, [lanes[index].option for index in lane_indices])

    @property
    def length(self) -> float:
        """Length in meters."""
        return float(self.along[-1])

    def position(self, along: float) -> tuple[float, float]:
        """Return the world position `along` meters from the start."""
        return (
            float(np.interp(along, self.along, self.points[:, 0])),
            float(np.interp(along, self.along, self.points[:, 1])),
        )

    def project(self, x: float, y: float, hint: float, window: float = 8.0) -> float:
        """Return the distance along the route of the point nearest to (x, y), `hint` +- `window` meters."""
        first = max(0, int(np.searchsorted(self.along, hint - window)) - 1)
        last = min(len(self.along), int(np.searchsorted(self.along, hint + window)) + 2)
        start, end = self.points[first : last - 1], self.points[first + 1 : last]
        step = end - start
        share = ((np.array([x, y]) - start) * step).sum(1) / (step**2).sum(1)
        share = np.clip(share, 0.0, 1.0)
        offset = start + share[:, None] * step - (x, y)
        best = int(np.argmin((offset**2).sum(1)))
        place = first + best
        return float(self.along[place] + share[best] * (self.along[place + 1] - self.along[place]))

    def lane_at(self, along: float) -> tuple[int, float]:
        """Return the position in `lane_indices` and the distance along that lane."""
        place = max(0, bisect_right(self.starts, along) - 1)
        return place, along - self.starts[place]

    def nodes(self, start: float = 0.0, spacing: float = 1.0) -> list[RouteNode]:
        """Return the route from `start` meters on as planner nodes, `spacing` meters apart."""
        result = []
        for along in np.arange(start, self.length, spacing):
            place, _ = self.lane_at(float(along))
            x, y = self.position(float(along))
            result.append(RouteNode(-y, x, self.options[place]))
        return result

    def ahead(self, along: float, count: int, spacing: float = 1.0) -> np.ndarray:
        """Return (count, 2) world points of the route from `along` meters on, `spacing` meters apart."""
        places = along + spacing * np.arange(count)
        x = np.interp(places, self.along, self.points[:, 0])
        y = np.interp(places, self.along, self.points[:, 1])
        return np.stack([x, y], axis=1)
