"""The bird's-eye-view grid: which cell contains a point, and how maps are oriented.

Points are in the ego frame: x forward, y right, z up, meters. A map indexed as
``[y index, x index]``, both increasing with the coordinate, is called *index-ordered*;
scattering points into cells gives such a map. Maps that are compared with the teacher's
or passed to the decoder are in *teacher orientation*: row 0 is farthest ahead, column 0
is leftmost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

#: lower bound, upper bound, cell size; meters
Bounds = Sequence[float]

#: allowed deviation from a whole number of cells, in cells (38.4 m contain 21.0008 cells of 1.8285 m)
CELL_TOLERANCE = 0.01


@dataclass(frozen=True)
class BEVGrid:
    """A regular grid over the ground around the ego vehicle.

    Args:
        x_bounds: Lower bound, upper bound and cell size along x (forward), meters.
        y_bounds: The same along y (right).
        z_bounds: The same along z (up).

    Raises:
        ValueError: If a range is empty or does not contain a whole number of cells.
    """

    x_bounds: Bounds
    y_bounds: Bounds
    z_bounds: Bounds

    def __post_init__(self) -> None:
        for name in ('x_bounds', 'y_bounds', 'z_bounds'):
            bounds = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, bounds)
            _count_cells(name, bounds)

    @cached_property
    def num_x(self) -> int:
        """Number of cells along x (forward)."""
        return _count_cells('x_bounds', self.x_bounds)

    @cached_property
    def num_y(self) -> int:
        """Number of cells along y (right)."""
        return _count_cells('y_bounds', self.y_bounds)

    @cached_property
    def num_z(self) -> int:
        """Number of cells along z (up)."""
        return _count_cells('z_bounds', self.z_bounds)

    @property
    def num_cells(self) -> int:
        """Number of cells of the ground plane."""
        return self.num_x * self.num_y

    @property
    def index_shape(self) -> tuple[int, int]:
        """Height and width of an index-ordered map: ``(num_y, num_x)``."""
        return self.num_y, self.num_x

    @property
    def teacher_shape(self) -> tuple[int, int]:
        """Height and width of a map in teacher orientation: ``(num_x, num_y)``."""
        return self.num_x, self.num_y

    @property
    def lower(self) -> tuple[float, float, float]:
        """Lower corner (x, y, z) in meters."""
        return self.x_bounds[0], self.y_bounds[0], self.z_bounds[0]

    @property
    def cell_size(self) -> tuple[float, float, float]:
        """Size of a cell along (x, y, z) in meters."""
        return self.x_bounds[2], self.y_bounds[2], self.z_bounds[2]

    def axis_indices(self, points: Float[Tensor, '*points 3']) -> Int64[Tensor, '*points 3']:
        """Index of the cell along each axis, without a range check.

        The index is floored: rounding toward zero, as the 2023 release does, also puts
        points up to one cell below the range into the first cell of each axis.

        Args:
            points: x, y, z in the ego frame, meters.

        Returns:
            Indices along x, y, z; negative below the range.
        """
        axes = zip(points.unbind(-1), self.lower, self.cell_size, strict=True)
        return torch.stack([torch.floor((values - lower) / size).long() for values, lower, size in axes], -1)

    def cell_index(self, points: Float[Tensor, '*points 3']) -> Int64[Tensor, '*points']:
        """Flat index of the cell that contains each point, in index order.

        Args:
            points: x, y, z in the ego frame, meters.

        Returns:
            ``y index * num_x + x index``, or -1 for a point outside the x, y or z range.
        """
        x, y, z = self.axis_indices(points).unbind(-1)
        inside = (x >= 0) & (x < self.num_x) & (y >= 0) & (y < self.num_y) & (z >= 0) & (z < self.num_z)
        return torch.where(inside, y * self.num_x + x, -1)

    def cell_centers(self) -> Float32[Tensor, '{self.num_x} {self.num_y} 2']:
        """x, y in meters of all cell centers of a map in teacher orientation."""
        x = self.x_bounds[0] + (torch.arange(self.num_x) + 0.5) * self.x_bounds[2]
        y = self.y_bounds[0] + (torch.arange(self.num_y) + 0.5) * self.y_bounds[2]
        return torch.stack(torch.meshgrid(x.flip(0), y, indexing='ij'), dim=-1)

    def teacher_coordinates(self, points: Float[Tensor, '*points xy']) -> Float[Tensor, '*points 2']:
        """Normalized positions of points in a map in teacher orientation.

        Args:
            points: x, y in the ego frame, meters; further coordinates are ignored.

        Returns:
            Column (lateral) and row (forward), the order expected by samplers; 0
            is the outer edge of the first column or row, 1 that of the last.
        """
        x_lower, x_upper, _ = self.x_bounds
        y_lower, y_upper, _ = self.y_bounds
        column = (points[..., 1] - y_lower) / (y_upper - y_lower)
        row = 1 - (points[..., 0] - x_lower) / (x_upper - x_lower)
        return torch.stack((column, row), dim=-1)


def to_teacher_orientation(index_map: Shaped[Tensor, '*batch Y X']) -> Shaped[Tensor, '*batch X Y']:
    """Rotate an index-ordered map by 90 degrees, without mirroring it.

    ``out[r, c] = map[c, num_x - 1 - r]``, so that row 0 is farthest ahead and column 0 is
    leftmost, as in the teacher's maps.
    """
    return index_map.transpose(-2, -1).flip(-2)


def from_teacher_orientation(teacher_map: Shaped[Tensor, '*batch X Y']) -> Shaped[Tensor, '*batch Y X']:
    """Invert :func:`to_teacher_orientation`."""
    return teacher_map.flip(-2).transpose(-2, -1)


def _count_cells(name: str, bounds: Bounds) -> int:
    if len(bounds) != 3:
        raise ValueError(f'{name} must be (lower, upper, cell size) in meters, got {bounds}')
    lower, upper, size = bounds
    if size <= 0 or upper <= lower:
        raise ValueError(f'{name} {bounds} is empty: set lower < upper and a positive cell size')
    cells = (upper - lower) / size
    count = round(cells)
    if count < 1 or abs(cells - count) > CELL_TOLERANCE:
        raise ValueError(
            f'{name} {bounds} contains {cells:.4f} cells: choose a cell size that divides {upper - lower:g} m'
        )
    return count
