"""Infraction criteria, evaluated at every step from poses and boxes.

The rules and limits follow the criteria of the CARLA leaderboard (version 1.0). Positions are world x and y
in meters; a box is the row (x, y, yaw, half length, half width) in meters and radians; a circle is the row
(x, y, radius).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinktwice.closed_loop.scoring import Infraction, InfractionKind
from thinktwice.geometry.poses import rotation_matrix

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Situation:
    """Input of the criteria at one step.

    Attributes:
        time: seconds since the start of the route.
        ego: (5,) box of the ego vehicle.
        speed: its speed in m/s.
        progress: meters of the route behind it.
        deviation: its distance from the route in meters.
        is_outside: whether its middle is off the road or in a lane of the opposite direction.
        vehicles: (V, 5) boxes of the others, in the same order at every step.
        pedestrians: (P, 5) boxes, in the same order at every step.
        static_boxes: (S, 5) boxes of static objects, in the same order at every step.
        static_circles: (C, 3) circles of static objects, in the same order at every step.
        stop_lines: (L, 2, 2) ends of the stop lines under traffic lights.
        is_red: (L,) bool, whether the light of each line is red.
    """

    time: float
    ego: Array
    speed: float
    progress: float
    deviation: float
    is_outside: bool
    vehicles: Array
    pedestrians: Array
    static_boxes: Array
    static_circles: Array
    stop_lines: Array
    is_red: NDArray[np.bool_]

    @property
    def position(self) -> tuple[float, float]:
        """World x and y of the vehicle."""
        return float(self.ego[0]), float(self.ego[1])

    def infraction(self, kind: InfractionKind, detail: str = '') -> Infraction:
        """An infraction here and now."""
        return Infraction(kind, self.time, self.position, detail)


class Criterion:
    """Evaluates the steps of one route; each route needs a new instance."""

    def step(self, situation: Situation) -> list[Infraction]:
        """Infractions that begin at this step."""
        raise NotImplementedError


class CollisionCriterion(Criterion):
    """Collisions with vehicles, pedestrians and static objects.

    Continued or soon repeated contact with the same object is one collision.

    Args:
        memory: seconds without contact after which the same actor counts again.
    """

    def __init__(self, memory: float = 5.0) -> None:
        self.memory = memory
        self._last_contact: dict[tuple[str, int], float] = {}

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`."""
        ego = situation.ego
        groups = (
            ('vehicle', InfractionKind.COLLISION_VEHICLE, boxes_touch(ego, situation.vehicles)),
            ('pedestrian', InfractionKind.COLLISION_PEDESTRIAN, boxes_touch(ego, situation.pedestrians)),
            ('box', InfractionKind.COLLISION_STATIC, boxes_touch(ego, situation.static_boxes)),
            ('circle', InfractionKind.COLLISION_STATIC, circles_touch(ego, situation.static_circles)),
        )
        found = []
        for group, kind, touches in groups:
            for index in np.flatnonzero(touches).tolist():
                last = self._last_contact.get((group, index))
                if last is None or situation.time - last > self.memory:
                    found.append(situation.infraction(kind, f'{group} {index}'))
                self._last_contact[group, index] = situation.time
        return found


class RedLightCriterion(Criterion):
    """The middle of the front passes a stop line while its light is red."""

    def __init__(self) -> None:
        self._front: Array | None = None

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`."""
        x, y, yaw, half_length, _ = situation.ego
        front = np.array([x, y]) + half_length * rotation_matrix(yaw)[:, 0]
        before, self._front = self._front, front
        if before is None or not len(situation.stop_lines):
            return []
        passed = segments_cross(before, front, situation.stop_lines) & situation.is_red
        return [
            situation.infraction(InfractionKind.RED_LIGHT, f'stop line {index}')
            for index in np.flatnonzero(passed).tolist()
        ]


class LaneCriterion(Criterion):
    """Distance driven outside the lanes: off the road or in a lane of the opposite direction.

    Attributes:
        driven: meters in all.
        outside: meters of those outside the lanes.
    """

    def __init__(self) -> None:
        self.driven = 0.0
        self.outside = 0.0
        self._position: Array | None = None
        self._was_outside = False

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`; an infraction is reported when the vehicle leaves the lanes."""
        position = situation.ego[:2]
        moved = 0.0 if self._position is None else float(np.linalg.norm(position - self._position))
        self._position = position
        self.driven += moved
        self.outside += moved if situation.is_outside else 0.0
        begins = situation.is_outside and not self._was_outside
        self._was_outside = situation.is_outside
        return [situation.infraction(InfractionKind.OUTSIDE_LANES)] if begins else []


class DeviationCriterion(Criterion):
    """The vehicle is too far from its route, which ends it.

    Args:
        max_distance: meters.
    """

    def __init__(self, max_distance: float = 30.0) -> None:
        self.max_distance = max_distance

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`."""
        if situation.deviation <= self.max_distance:
            return []
        return [situation.infraction(InfractionKind.ROUTE_DEVIATION, f'{situation.deviation:.1f} m')]


class BlockedCriterion(Criterion):
    """The vehicle has stood still for too long, which ends its route.

    Args:
        max_seconds: longest time without moving.
        min_speed: m/s below which it counts as standing.

    Attributes:
        standing: seconds that it stood in all.
    """

    def __init__(self, max_seconds: float = 180.0, min_speed: float = 0.1) -> None:
        self.max_seconds = max_seconds
        self.min_speed = min_speed
        self.standing = 0.0
        self._moved_at: float | None = None
        self._time: float | None = None

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`."""
        elapsed = 0.0 if self._time is None else situation.time - self._time
        self._time = situation.time
        if self._moved_at is None or situation.speed >= self.min_speed:
            self._moved_at = situation.time
        if situation.speed < self.min_speed:
            self.standing += elapsed
        waited = situation.time - self._moved_at
        if waited <= self.max_seconds:
            return []
        return [situation.infraction(InfractionKind.BLOCKED, f'stood for {waited:.0f} s')]


class TimeoutCriterion(Criterion):
    """The route takes too long, which ends it.

    Args:
        max_seconds: time allowed.
    """

    def __init__(self, max_seconds: float) -> None:
        self.max_seconds = max_seconds

    def step(self, situation: Situation) -> list[Infraction]:
        """See :class:`Criterion`."""
        if situation.time <= self.max_seconds:
            return []
        return [situation.infraction(InfractionKind.ROUTE_TIMEOUT)]


@dataclass
class Judge:
    """All criteria of one route.

    Attributes:
        max_seconds: time allowed for the route.
        infractions: those so far.
    """

    max_seconds: float
    lanes: LaneCriterion = field(default_factory=LaneCriterion)
    blocked: BlockedCriterion = field(default_factory=BlockedCriterion)
    infractions: list[Infraction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._criteria: Sequence[Criterion] = (
            CollisionCriterion(),
            RedLightCriterion(),
            self.lanes,
            DeviationCriterion(),
            self.blocked,
            TimeoutCriterion(self.max_seconds),
        )

    def step(self, situation: Situation) -> list[Infraction]:
        """Judge a step; returns the infractions that begin with it."""
        found = [event for criterion in self._criteria for event in criterion.step(situation)]
        self.infractions += found
        return found


def boxes_touch(box: Array, others: Array) -> NDArray[np.bool_]:
    """Whether a box overlaps others, by the separating axes of rectangles.

    Args:
        box: (5,).
        others: (N, 5).

    Returns:
        (N,) bool.
    """
    touches = np.zeros(len(others), dtype=bool)
    reach = others[:, 3] + others[:, 4] + box[3] + box[4]
    near = np.flatnonzero((np.abs(others[:, :2] - box[:2]) <= reach[:, None]).all(1))
    if len(near):
        touches[near] = _rectangles_overlap(box, others[near])
    return touches


def _rectangles_overlap(box: Array, others: Array) -> NDArray[np.bool_]:
    offset = others[:, :2] - box[:2]
    turn = others[:, 2] - box[2]
    own_axes, other_yaw = rotation_matrix(box[2]), others[:, 2]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    # the reach of the other box along the own axes, and the other way around
    ahead = np.abs(offset @ own_axes[:, 0]) <= box[3] + others[:, 3] * cos + others[:, 4] * sin
    beside = np.abs(offset @ own_axes[:, 1]) <= box[4] + others[:, 3] * sin + others[:, 4] * cos
    along = np.abs(offset[:, 0] * np.cos(other_yaw) + offset[:, 1] * np.sin(other_yaw))
    across = np.abs(offset[:, 1] * np.cos(other_yaw) - offset[:, 0] * np.sin(other_yaw))
    other_ahead = along <= others[:, 3] + box[3] * cos + box[4] * sin
    other_beside = across <= others[:, 4] + box[3] * sin + box[4] * cos
    return ahead & beside & other_ahead & other_beside


def circles_touch(box: Array, circles: Array) -> NDArray[np.bool_]:
    """Whether a box (5,) overlaps circles (N, 3); (N,) bool."""
    if not len(circles):
        return np.zeros(0, dtype=bool)
    local = (circles[:, :2] - box[:2]) @ rotation_matrix(box[2])
    gap = np.maximum(np.abs(local) - box[3:5], 0.0)
    return np.hypot(gap[:, 0], gap[:, 1]) <= circles[:, 2]


def segments_cross(start: Array, end: Array, lines: Array) -> NDArray[np.bool_]:
    """Whether the way from ``start`` to ``end`` (2,) each crosses segments (L, 2, 2); (L,) bool."""

    def side(a: Array, b: Array, point: Array) -> Array:
        return (b[..., 0] - a[..., 0]) * (point[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
            point[..., 0] - a[..., 0]
        )

    first, last = lines[:, 0], lines[:, 1]
    line_parts_way = side(start, end, first) * side(start, end, last) <= 0
    # the start belongs to the way, its end to the next step's: a line is passed once
    begins, ends = side(first, last, start), side(first, last, end)
    return line_parts_way & (np.sign(begins) != np.sign(ends)) & (begins != 0)
