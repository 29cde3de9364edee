"""Solid shapes of a scene: boxes, upright cylinders and ellipsoids as arrays.

Frames: a primitive is placed in the town's world frame (X east, Y south, Z up,
left-handed) and turned by `yaw` about Z, positive from X to Y.
"""

from dataclasses import dataclass, field

import numpy as np

BOX = 0
CYLINDER = 1
ELLIPSOID = 2

PLAIN = 0
FACADE = 1
FOLIAGE = 2
CAR_BODY = 3
CAR_CABIN = 4
LIGHT_HEAD = 5
SIGN_PLATE = 6
CLOTHES = 7

GEOMETRY_COLUMNS = 8
"""Columns of the caster's table: center x, y, z, half x, y, z, cos yaw, sin yaw."""


@dataclass(frozen=True)
class PrimitiveSet:
    """P solid shapes as columns.

    Attributes:
        kind: (P,) int8, `BOX`, `CYLINDER` or `ELLIPSOID`.
        center: (P, 3) float64 in world meters.
        half: (P, 3) float64, half extents in meters along the shape's own axes;
            a cylinder's radius is its first entry.
        yaw: (P,) float64 in radians.
        class_id: (P,) uint8 semantic class.
        color: (P, 3) float32 base RGB, 0..255.
        texture: (P,) int8 surface pattern.
        state: (P,) int8, a light's color or a car's brake lamps.
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
        """Return the shapes of a boolean mask or an index array."""
        return PrimitiveSet(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    def near(self, position: np.ndarray, radius: float) -> 'PrimitiveSet':
        """Return the shapes that reach into a circle of `radius` meters around `position` (2,)."""
        offset = self.center[:, :2] - np.asarray(position)[:2]
        reach = radius + np.hypot(self.half[:, 0], self.half[:, 1])
        return self.select((offset**2).sum(1) <= reach**2)

    def in_ego(self, pose: tuple[float, float, float]) -> np.ndarray:
        """Return the (P, 8) geometry table in the ego frame of `pose` (x, y, yaw)."""
        x, y, yaw = pose
        cos, sin = np.cos(yaw), np.sin(yaw)
        offset = self.center[:, :2] - (x, y)
        table = np.empty((len(self), GEOMETRY_COLUMNS))
        table[:, 0] = cos * offset[:, 0] + sin * offset[:, 1]
        table[:, 1] = -sin * offset[:, 0] + cos * offset[:, 1]
        table[:, 2] = self.center[:, 2]
        table[:, 3:6] = self.half
        table[:, 6] = np.cos(self.yaw - yaw)
        table[:, 7] = np.sin(self.yaw - yaw)
        return table


def merge(*parts: PrimitiveSet) -> PrimitiveSet:
    """Join primitive sets in order."""
    names = PrimitiveSet.__dataclass_fields__
    return PrimitiveSet(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass
class PrimitiveBuilder:
    """Collects shapes one by one; `build` makes the arrays."""

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
