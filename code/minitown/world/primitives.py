"""Solid shapes of a scene: boxes, upright cylinders and ellipsoids, stored as arrays.

Positions are in the world frame (x east, y south, z up, left-handed); `yaw` rotates a
shape about z, positive from x to y.
"""

from dataclasses import dataclass, field

import numpy as np

from thinktwice.geometry.poses import world_to_ego

BOX = 0
CYLINDER = 1
ELLIPSOID = 2

PLAIN = 0
FACADE = 1
FOLIAGE = 2
VEHICLE_BODY = 3
VEHICLE_CABIN = 4
LIGHT_HEAD = 5
SIGN_PLATE = 6
CLOTHES = 7

GEOMETRY_COLUMNS = 8
"""Columns of the ray caster's geometry table: center x, y, z, half x, y, z, cos yaw, sin yaw."""


@dataclass(frozen=True)
class PrimitiveSet:
    """P solid shapes as columns.

    Attributes:
        kind: (P,) int8, `BOX`, `CYLINDER` or `ELLIPSOID`.
        center: (P, 3) float64, meters in the world frame.
        half: (P, 3) float64, half extents in meters along the shape's own axes;
            the first entry of a cylinder is its radius.
        yaw: (P,) float64, radians.
        class_id: (P,) uint8 semantic class.
        color: (P, 3) float32 base RGB, 0..255.
        texture: (P,) int8 surface pattern.
        state: (P,) int8, color of a traffic light or whether brake lights are on.
    """

    kind: np.ndarray
    center: np.ndarray
    half: np.ndarray
    yaw: np.ndarray
    class_id: np.ndarray
    color: np.ndarray
    texture: np.ndarray
    state: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, index: np.ndarray) -> 'PrimitiveSet':
        """Return the shapes selected by a boolean mask or an index array."""
        return PrimitiveSet(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    def near(self, position: np.ndarray, radius: float) -> 'PrimitiveSet':
        """Return the shapes that overlap a circle of `radius` meters around `position` (2,)."""
        offset = self.center[:, :2] - np.asarray(position)[:2]
        reach = radius + np.hypot(self.half[:, 0], self.half[:, 1])
        return self.select((offset**2).sum(1) <= reach**2)

    def in_ego(self, pose: tuple[float, float, float]) -> np.ndarray:
        """Return the (P, 8) geometry table in the ego frame of `pose` (x, y, yaw)."""
        yaw = self.yaw - pose[2]
        return np.column_stack([world_to_ego(self.center, pose), self.half, np.cos(yaw), np.sin(yaw)])


def merge(*parts: PrimitiveSet) -> PrimitiveSet:
    """Concatenate primitive sets in order."""
    names = PrimitiveSet.__dataclass_fields__
    return PrimitiveSet(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass
class PrimitiveBuilder:
    """Collects shapes one by one; `build` returns them as a `PrimitiveSet`."""

    rows: list[tuple] = field(default_factory=list)

    def add(
        self,
        kind: int,
        center: tuple[float, float, float],
        half: tuple[float, float, float],
        class_id: int,
        color: tuple[float, float, float],
        yaw: float = 0.0,
        texture: int = PLAIN,
        state: int = 0,
    ) -> int:
        """Add one shape and return its index. Units as in `PrimitiveSet`."""
        self.rows.append((kind, center, half, yaw, class_id, color, texture, state))
        return len(self.rows) - 1

    def build(self) -> PrimitiveSet:
        """Return all shapes added so far."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * 8
        return PrimitiveSet(
            kind=np.array(columns[0], dtype=np.int8),
            center=np.array(columns[1], dtype=np.float64).reshape(-1, 3),
            half=np.array(columns[2], dtype=np.float64).reshape(-1, 3),
            yaw=np.array(columns[3], dtype=np.float64),
            class_id=np.array(columns[4], dtype=np.uint8),
            color=np.array(columns[5], dtype=np.float32).reshape(-1, 3),
            texture=np.array(columns[6], dtype=np.int8),
            state=np.array(columns[7], dtype=np.int8),
        )
