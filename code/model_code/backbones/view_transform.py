"""Lift image features into space and pool them on the ground.

Every pixel of the lifted map spreads its feature along its ray by its depth distribution,
and every cell of the bird's-eye view sums what falls into it (Philion and Fidler, "Lift,
Splat, Shoot", 2020).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thinktwice.geometry.bev_grid import BEVGrid, Bounds
from thinktwice.model_code.ops import splat
from thinktwice.registry import MODELS


@MODELS.register_module()
class LiftSplat(nn.Module):
    """The geometry between image pixels with depth and cells of the BEV; no weights.

    Args:
        bev_grid: The grid, or the arguments of :class:`BEVGrid`.
        depth_bounds: Lower end of the first depth bin, upper end of the last one and the
            size of a bin, meters along the optical axis.

    Raises:
        ValueError: If ``depth_bounds`` hold no bin.
    """

    depth_values: Tensor

    def __init__(self, bev_grid: BEVGrid | Mapping[str, Any], depth_bounds: Bounds) -> None:
        super().__init__()
        self.bev_grid = bev_grid if isinstance(bev_grid, BEVGrid) else BEVGrid(**bev_grid)
        lower, upper, size = depth_bounds
        self.num_bins = round((upper - lower) / size) if size > 0 else 0
        if self.num_bins < 1:
            raise ValueError(
                f'depth_bounds {depth_bounds} must be (lower, upper, bin size) with lower < upper'
            )
        self.depth_bounds = (float(lower), float(upper), float(size))
        self.register_buffer('depth_values', self.bin_depths(), persistent=False)

    def bin_depths(self) -> Tensor:
        """Depth at which each bin is lifted: its middle, (D,) meters.

        The labels of bin c are the depths from its lower to its upper end; 2023 lifted at
        the lower end, a quarter of a meter short on average.
        """
        lower, _, size = self.depth_bounds
        return lower + (torch.arange(self.num_bins) + 0.5) * size

    def pixel_centers(self, image_size: tuple[int, int], map_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image coordinates of the middle of each cell of the lifted map.

        Args:
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted map.

        Returns:
            Columns (w,) and rows (h,) in pixels; whole numbers are pixel centers.
        """
        (H, W), (h, w) = image_size, map_size
        columns = (torch.arange(w, device=self.depth_values.device) + 0.5) * (W / w) - 0.5
        rows = (torch.arange(h, device=self.depth_values.device) + 0.5) * (H / h) - 0.5
        return columns, rows

    def lift(
        self,
        intrinsics: Tensor,
        cam2key: Tensor,
        ida_mats: Tensor,
        image_size: tuple[int, int],
        map_size: tuple[int, int],
    ) -> Tensor:
        """Place every pixel and depth bin in the key ego frame.

        Args:
            intrinsics: (B, N, 3, 3) pixels of the undistorted raw image.
            cam2key: (B, N, 4, 4) camera to the ego frame of the key frame, meters.
            ida_mats: (B, N, 4, 4) raw pixel to pixel of the network's image.
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted map.

        Returns:
            (B, N, D, h, w, 3) x, y, z in meters.
        """
        columns, rows = self.pixel_centers(image_size, map_size)
        v, u = torch.meshgrid(rows, columns, indexing='ij')
        pixels = torch.stack((u, v), dim=-1).view(-1, 2).to(intrinsics)
        # undo the augmentation: pixels of the raw image, (B, N, h * w, 2)
        raw = (pixels - ida_mats[..., None, :2, 3]) @ ida_mats[..., :2, :2].inverse().transpose(-2, -1)
        homogeneous = torch.cat((raw, torch.ones_like(raw[..., :1])), dim=-1)
        # a ray reaches depth d at d times its direction
        camera2pixel_inverse = cam2key[..., :3, :3] @ intrinsics.inverse()
        rays = homogeneous @ camera2pixel_inverse.transpose(-2, -1)
        rays = rays.unflatten(-2, map_size)[:, :, None]  # (B, N, 1, h, w, 3)
        origin = cam2key[:, :, None, None, None, :3, 3]
        return origin + rays * self.depth_values.to(rays)[:, None, None, None]

    def cell_index(self, points: Tensor) -> Tensor:
        """Cell of each lifted point (..., 3): flat index (...), -1 outside of the grid."""
        return self.bev_grid.cell_index(points)

    def forward(
        self,
        depth: Tensor,
        features: Tensor,
        intrinsics: Tensor,
        cam2key: Tensor,
        ida_mats: Tensor,
        image_size: tuple[int, int],
    ) -> Tensor:
        """Pool features on the ground.

        Args:
            depth: (B, N, D, h, w) weight of each depth bin.
            features: (B, N, C, h, w).
            intrinsics: See :meth:`lift`.
            cam2key: See :meth:`lift`.
            ida_mats: See :meth:`lift`.
            image_size: H, W of the network's images, pixels.

        Returns:
            (B, C, num_y, num_x), index-ordered (:mod:`thinktwice.geometry.bev_grid`).
        """
        h, w = features.shape[-2:]
        # Half precision is too coarse for coordinates and for sums over thousands of pixels.
        with torch.autocast(features.device.type, enabled=False):
            points = self.lift(intrinsics.float(), cam2key.float(), ida_mats.float(), image_size, (h, w))
            pooled = splat(depth.float(), features.float(), self.cell_index(points), self.bev_grid.num_cells)
        return pooled.unflatten(-1, self.bev_grid.index_shape)
