"""Lift-splat with the pixel, depth and cell rules of 2023 (docs/reference_quirks, M22 to M24)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thinktwice.geometry.bev_grid import BEVGrid, Bounds
from thinktwice.model_code.backbones.view_transform import LiftSplat
from thinktwice.registry import MODELS


class ReferenceBEVGrid(BEVGrid):
    """Grid whose cell indices are truncated toward zero (M22).

    The first cell of each axis also collects the strip below the range: x from -9.83 m,
    y from -21.03 m and z from -18 m at the paper's bounds.
    """

    def axis_indices(self, points: Tensor) -> Tensor:
        """Index of the cell along each axis; see :meth:`BEVGrid.axis_indices`."""
        size = points.new_tensor(self.cell_size)
        # the first cell's center is what 2023 stores; its rounding is part of the numbers
        first_center = points.new_tensor(self.first_center)
        return ((points - (first_center - size / 2)) / size).to(torch.int32).long()

    @property
    def first_center(self) -> tuple[float, ...]:
        """Center (x, y, z) of the first cell in meters."""
        return tuple(low + size / 2 for low, size in zip(self.lower, self.cell_size, strict=True))


@MODELS.register_module()
class ReferenceLiftSplat(LiftSplat):
    """Lift-splat of the 2023 code; arguments as for :class:`LiftSplat`."""

    def __init__(self, bev_grid: Mapping[str, Any], depth_bounds: Bounds) -> None:
        super().__init__(ReferenceBEVGrid(**bev_grid), depth_bounds)

    def bin_depths(self) -> Tensor:
        """Depth (D,) at which each bin is lifted: its lower end (M24).

        What is labeled 10.0 to 10.5 m is placed at 10.0 m, 0.25 m short on average.
        """
        lower, _, size = self.depth_bounds
        return lower + torch.arange(self.num_bins) * size

    def pixel_centers(self, image_size: tuple[int, int], map_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Columns (w,) and rows (h,) evenly spaced from the first to the last pixel (M23).

        They miss the centers of the cells whose features they carry by up to 7.5 pixels.
        """
        columns, rows = (
            torch.linspace(0, size - 1, cells, device=self.depth_values.device)
            for size, cells in zip(image_size[::-1], map_size[::-1], strict=True)
        )
        return columns, rows

    def lift(
        self,
        intrinsics: Tensor,
        cam2key: Tensor,
        ida_mats: Tensor,
        image_size: tuple[int, int],
        map_size: tuple[int, int],
    ) -> Tensor:
        """Place every pixel and depth bin; arguments and result as of :meth:`LiftSplat.lift`.

        The result is that of the main line. The operations are those of 2023 in their order,
        because a point that rounds across the border of a cell moves its whole feature.
        """
        frustum = self.frustum(image_size, map_size).to(intrinsics)[..., None]  # (D, h, w, 4, 1)
        points = ida_mats.inverse()[:, :, None, None, None] @ frustum
        points = torch.cat((points[..., :2, :] * points[..., 2:3, :], points[..., 2:, :]), dim=-2)
        lens = torch.eye(4).to(intrinsics).repeat(*intrinsics.shape[:2], 1, 1)
        lens[..., :3, :3] = intrinsics
        pixel2key = cam2key @ lens.inverse()
        return (pixel2key[:, :, None, None, None] @ points)[..., :3, 0]

    def frustum(self, image_size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
        """Column, row, depth and 1 of every pixel and bin: (D, h, w, 4)."""
        columns, rows = self.pixel_centers(image_size, map_size)
        depth, v, u = torch.meshgrid(self.depth_values, rows, columns, indexing='ij')
        return torch.stack((u, v, depth, torch.ones_like(u)), dim=-1)

    def official_buffers(self, image_size: tuple[int, int], map_size: tuple[int, int]) -> dict[str, Tensor]:
        """The buffers of the 2023 encoder that its config determines.

        Args:
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted map.

        Returns:
            ``voxel_size`` (3,), ``voxel_coord`` (3,) first-cell centers, ``voxel_num`` (3,)
            int64, ``frustum`` (D, h, w, 4) column, row, depth, 1.
        """
        grid = self.bev_grid
        assert isinstance(grid, ReferenceBEVGrid)  # built above
        return {
            'voxel_size': torch.tensor(grid.cell_size),
            'voxel_coord': torch.tensor(grid.first_center),
            'voxel_num': torch.tensor([grid.num_x, grid.num_y, grid.num_z]),
            'frustum': self.frustum(image_size, map_size),
        }
