"""Street layout of a town: an incomplete grid of streets, with junctions, lanes and crosswalks.

The layout is a function of the town's number alone: as with the maps of CARLA, recordings
with other seeds drive other routes on the same streets.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from thinktwice.geometry.poses import rotation_matrix
from thinktwice.geometry.route_planner import RoadOption
from thinktwice.minitown.world.lanes import (
    LANE_OFFSET,
    Lane,
    direction,
    find_conflicts,
    straight_line,
    turn_line,
)

JUNCTION_REACH = 9.0
"""Distance of the stop lines from a junction's center, meters."""
LATERAL_ACCELERATION = 2.6
"""Comfortable lateral acceleration, which limits the speed in turns, m/s^2."""
ROAD_HALF = 3.8
SIDEWALK_HALF = 6.2


@dataclass
class Junction:
    """A four-way or T junction, or a bend.

    Attributes:
        center: (2,) meters in the grid frame.
        arms: Direction in quarter turns -> index of the junction at the arm's other end.
        connectors: Lane indices of the ways through it.
    """

    index: int
    center: np.ndarray
    arms: dict[int, int] = field(default_factory=dict)
    connectors: list[int] = field(default_factory=list)

    @property
    def has_lights(self) -> bool:
        """Whether the junction has traffic lights: all with three arms or more do."""
        return len(self.arms) >= 3

    @property
    def is_bend(self) -> bool:
        """Whether two arms meet at a right angle."""
        return len(self.arms) == 2 and sum(self.arms) % 2 == 1


@dataclass
class Crosswalk:
    """A crosswalk in the middle of a street.

    Attributes:
        center: (2,) meters in the world frame.
        across: (2,) unit vector across the street; lane `lanes[0]` is at +1.75 m along it.
        lanes: Indices of the two lanes.
    """

    center: np.ndarray
    across: np.ndarray
    lanes: tuple[int, int]


@dataclass
class Layout:
    """Streets of one town; lanes and crosswalks are in the world frame.

    Attributes:
        number: The town's number.
        grid2world: (2, 3) matrix, a rotation and a translation.
        streets: (first junction, second junction, direction in quarter turns, 0 or 1).
        crosswalk_streets: Index of the street of each crosswalk.
    """

    number: int
    grid2world: np.ndarray
    junctions: list[Junction]
    streets: list[tuple[int, int, int]]
    lanes: list[Lane]
    crosswalks: list[Crosswalk]
    crosswalk_streets: list[int]

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Transform grid points (..., 2) to the world."""
        return points @ self.grid2world[:, :2].T + self.grid2world[:, 2]

    @property
    def angle(self) -> float:
        """Rotation of the grid in the world, radians."""
        return math.atan2(self.grid2world[1, 0], self.grid2world[0, 0])


def _draw_streets(rng: np.random.Generator) -> tuple[list[Junction], list[tuple[int, int, int]]]:
    """Sample a grid of junctions and remove streets so that each junction keeps at least two arms."""
    columns, rows = int(rng.integers(3, 5)), int(rng.integers(3, 5))
    xs = np.concatenate([[0.0], np.cumsum(rng.uniform(58, 92, columns - 1))])
    ys = np.concatenate([[0.0], np.cumsum(rng.uniform(58, 92, rows - 1))])
    junctions = [
        Junction(row * columns + column, np.array([xs[column], ys[row]]))
        for row in range(rows)
        for column in range(columns)
    ]
    streets = []
    for row in range(rows):
        for column in range(columns):
            index = row * columns + column
            if column + 1 < columns:
                streets.append((index, index + 1, 0))
            if row + 1 < rows:
                streets.append((index, index + columns, 1))
    degree = np.zeros(len(junctions), dtype=int)
    for first, second, _ in streets:
        degree[[first, second]] += 1
    wanted_gaps = int(rng.integers(1, 4))
    # A street may be removed only while another junction keeps four arms.
    for place in rng.permutation(len(streets)).tolist():
        first, second, _ = streets[place]
        ends = [first, second]
        crossings_left = np.sum(degree == 4) - np.sum(degree[ends] == 4)
        if wanted_gaps and degree[ends].min() >= 3 and degree[ends].max() == 4 and crossings_left:
            streets[place] = (-1, -1, -1)
            degree[ends] -= 1
            wanted_gaps -= 1
    streets = [street for street in streets if street[0] >= 0]
    for first, second, quarter in streets:
        junctions[first].arms[quarter] = second
        junctions[second].arms[quarter + 2] = first
    return junctions, streets


def _street_lanes(
    junctions: list[Junction], streets: list[tuple[int, int, int]], rng: np.random.Generator
) -> list[Lane]:
    """Create two lanes per street: even indices along the street's direction, odd ones against it."""
    lanes: list[Lane] = []
    for first, second, quarter in streets:
        limit = float(rng.choice([6.0, 7.0, 8.0]))
        for start, end, heading in ((first, second, quarter), (second, first, quarter + 2)):
            ahead, right = direction(heading), direction(heading + 1)
            a = junctions[start].center + JUNCTION_REACH * ahead + LANE_OFFSET * right
            b = junctions[end].center - JUNCTION_REACH * ahead + LANE_OFFSET * right
            points, headings = straight_line(a, b, heading)
            lanes.append(
                Lane(len(lanes), points, headings, RoadOption.LANE_FOLLOW, start, end, heading, False, limit)
            )
    return lanes


def _connect(junctions: list[Junction], lanes: list[Lane]) -> None:
    """Append the connectors of every junction and link them with the street lanes."""
    street_lanes = list(lanes)
    by_exit = {(lane.start, lane.heading_index): lane for lane in street_lanes}
    for lane in street_lanes:
        junction = junctions[lane.end]
        for turn, option in ((0, RoadOption.STRAIGHT), (1, RoadOption.RIGHT), (-1, RoadOption.LEFT)):
            heading = (lane.heading_index + turn) % 4
            if heading not in junction.arms:
                continue
            following = by_exit[(junction.index, heading)]
            limit = lane.speed_limit
            if turn == 0:
                points, headings = straight_line(lane.points[-1], following.points[0], lane.heading_index)
            else:
                radius = JUNCTION_REACH - turn * LANE_OFFSET
                points, headings = turn_line(lane.points[-1], lane.heading_index, turn, radius)
                limit = math.sqrt(LATERAL_ACCELERATION * radius)
            connector = Lane(
                index=len(lanes),
                points=points,
                headings=headings,
                option=option if junction.has_lights else RoadOption.LANE_FOLLOW,
                start=junction.index,
                end=junction.index,
                heading_index=heading,
                is_connector=True,
                speed_limit=limit,
                successors=[following.index],
            )
            lanes.append(connector)
            lane.successors.append(connector.index)
            junction.connectors.append(connector.index)
    for junction in junctions:
        find_conflicts(lanes, junction.connectors)


def _to_world(lanes: list[Lane], grid2world: np.ndarray, angle: float) -> list[Lane]:
    """Transform lanes from the grid frame to the world."""
    moved = []
    for lane in lanes:
        values = {name: getattr(lane, name) for name in Lane.__dataclass_fields__}
        values['points'] = lane.points @ grid2world[:, :2].T + grid2world[:, 2]
        values['headings'] = lane.headings + angle
        moved.append(Lane(**values))
    return moved


def build_layout(number: int) -> Layout:
    """Return the streets of town `number`, the same for every call."""
    rng = np.random.default_rng([20230, number])
    junctions, streets = _draw_streets(rng)
    lanes = _street_lanes(junctions, streets, rng)
    _connect(junctions, lanes)
    angle = float(rng.uniform(-math.pi, math.pi))
    rotation = rotation_matrix(angle)
    center = np.mean([junction.center for junction in junctions], axis=0)
    shift = rng.uniform(-150, 150, 2) - rotation @ center
    grid2world = np.column_stack([rotation, shift])
    lanes = _to_world(lanes, grid2world, angle)
    layout = Layout(number, grid2world, junctions, streets, lanes, [], [])
    chosen = sorted(rng.choice(len(streets), max(2, len(streets) // 2), replace=False).tolist())
    for place in chosen:
        first, second, quarter = streets[place]
        forward, backward = lanes[2 * place], lanes[2 * place + 1]
        center = layout.to_world((junctions[first].center + junctions[second].center) / 2)
        across = rotation @ direction(quarter + 1)
        for lane in (forward, backward):
            lane.crosswalk, lane.crosswalk_index = lane.length / 2, len(layout.crosswalks)
        layout.crosswalks.append(Crosswalk(center, across, (forward.index, backward.index)))
        layout.crosswalk_streets.append(place)
    return layout
