"""What sensors can see at one moment: shapes, ground and light."""

from dataclasses import dataclass, field

import numpy as np

from thinktwice.geometry.poses import pose_matrix
from thinktwice.minitown.world.classes import GROUND_ROAD, GROUND_TERRAIN
from thinktwice.minitown.world.primitives import PrimitiveSet


@dataclass(frozen=True)
class GroundMap:
    """A grid of ground codes over the ground plane.

    Attributes:
        codes: (R, C) uint8 ground codes.
        world2grid: (2, 3) matrix from world (x, y, 1) to (column, row); integers are cell centers.
    """

    codes: np.ndarray
    world2grid: np.ndarray

    def ego2grid(self, pose: tuple[float, float, float]) -> np.ndarray:
        """Return the (2, 3) matrix from ego (x, y, 1) at `pose` (x, y, yaw) to (column, row)."""
        without_z = [0, 1, 3]
        return self.world2grid @ pose_matrix(pose)[np.ix_(without_z, without_z)]

    def lookup(self, points: np.ndarray) -> np.ndarray:
        """Return the codes at world points (..., 2); terrain outside the map."""
        grid = points @ self.world2grid[:, :2].T + self.world2grid[:, 2]
        column, row = np.floor(np.moveaxis(grid, -1, 0) + 0.5).astype(np.int64)
        inside = (row >= 0) & (row < self.codes.shape[0]) & (column >= 0) & (column < self.codes.shape[1])
        codes = self.codes[np.where(inside, row, 0), np.where(inside, column, 0)]
        return np.where(inside, codes, GROUND_TERRAIN)


def plain_ground(code: int = GROUND_ROAD, reach: float = 200.0) -> GroundMap:
    """Return a ground map of one code within +-`reach` meters of the world origin."""
    cells = int(reach)
    codes = np.full((2 * cells, 2 * cells), code, dtype=np.uint8)
    return GroundMap(codes, np.array([[1.0, 0.0, cells], [0.0, 1.0, cells]]))


@dataclass(frozen=True)
class Lighting:
    """Sun, haze and sky.

    Attributes:
        sun: (3,) vector toward the sun in the world frame, any length.
        ambient, direct: Ambient and direct light as factors of the base color.
        haze: Extinction coefficient of the air, per meter.
        haze_color, sky_color: RGB at the horizon and at the zenith.
    """

    sun: tuple[float, float, float] = (0.4, 0.5, 0.77)
    ambient: float = 0.55
    direct: float = 0.5
    haze: float = 0.002
    haze_color: tuple[float, float, float] = (205.0, 213.0, 220.0)
    sky_color: tuple[float, float, float] = (104.0, 148.0, 205.0)


@dataclass(frozen=True)
class Scene:
    """Everything that sensors can see at one moment."""

    shapes: PrimitiveSet
    ground: GroundMap = field(default_factory=plain_ground)
    lighting: Lighting = field(default_factory=Lighting)
