"""Lift image features into 3D and pool them on the ground (Philion and Fidler, "Lift, Splat, Shoot", 2020).

The feature of each pixel of the lifted level is distributed along its ray by its depth distribution,
and each BEV cell sums the features that fall into it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.geometry.bev_grid import BEVGrid, Bounds
from thinktwice.model_code.ops import splat
from thinktwice.registry import MODELS


@MODELS.register_module()
class LiftSplat(nn.Module):
    """Lift-splat without parameters: depth distributions and features of images to a BEV map.

    Args:
        bev_grid: The grid, or the arguments of :class:`BEVGrid`.
        depth_bounds: Lower end of the first depth bin, upper end of the last one and size of a bin,
            meters along the optical axis.

    Raises:
        ValueError: If ``depth_bounds`` is empty.
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

    def bin_depths(self) -> Float[Tensor, ' D']:
        """Depth in meters at which each bin is lifted: its center.

        The label of a bin covers all depths from its lower to its upper end; 2023 lifted at the
        lower end (docs/reference_quirks, M24).
        """
        lower, _, size = self.depth_bounds
        return lower + (torch.arange(self.num_bins) + 0.5) * size

    def pixel_centers(
        self, image_size: tuple[int, int], map_size: tuple[int, int]
    ) -> tuple[Float[Tensor, ' w'], Float[Tensor, ' h']]:
        """Image coordinates of the center of each cell of the lifted level.

        Args:
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted level.

        Returns:
            Columns and rows in pixels; integers are pixel centers.
        """
        (H, W), (h, w) = image_size, map_size
        columns = (torch.arange(w, device=self.depth_values.device) + 0.5) * (W / w) - 0.5
        rows = (torch.arange(h, device=self.depth_values.device) + 0.5) * (H / h) - 0.5
        return columns, rows

    def lift(
        self,
        intrinsics: Float[Tensor, 'B N 3 3'],
        cam2key: Float[Tensor, 'B N 4 4'],
        ida_mats: Float[Tensor, 'B N 4 4'],
        image_size: tuple[int, int],
        map_size: tuple[int, int],
    ) -> Float[Tensor, 'B N D h w 3']:
        """Compute the position of every pixel and depth bin in the ego frame of the key frame.

        Args:
            intrinsics: Pixels of the undistorted raw image.
            cam2key: Camera to the ego frame of the key frame, meters.
            ida_mats: Pixel of the raw image to pixel of the network's image.
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted level.

        Returns:
            x, y, z in meters.
        """
        columns, rows = self.pixel_centers(image_size, map_size)
        v, u = torch.meshgrid(rows, columns, indexing='ij')
        pixels = torch.stack((u, v), dim=-1).view(-1, 2).to(intrinsics)
        # invert the image augmentation: pixels of the raw image, (B, N, h * w, 2)
        raw = (pixels - ida_mats[..., None, :2, 3]) @ _inverse(ida_mats[..., :2, :2]).transpose(-2, -1)
        homogeneous = torch.cat((raw, torch.ones_like(raw[..., :1])), dim=-1)
        # the depth of a ray's direction is 1, so the point at depth d is d times the direction
        pixel2ray = cam2key[..., :3, :3] @ _inverse(intrinsics)
        rays = homogeneous @ pixel2ray.transpose(-2, -1)
        rays = rays.unflatten(-2, map_size)[:, :, None]  # (B, N, 1, h, w, 3)
        origin = cam2key[:, :, None, None, None, :3, 3]
        return origin + rays * self.depth_values.to(rays)[:, None, None, None]

    def forward(
        self,
        depth: Float[Tensor, 'B N D h w'],
        features: Float[Tensor, 'B N C h w'],
        intrinsics: Float[Tensor, 'B N 3 3'],
        cam2key: Float[Tensor, 'B N 4 4'],
        ida_mats: Float[Tensor, 'B N 4 4'],
        image_size: tuple[int, int],
    ) -> Float[Tensor, 'B C Y X']:
        """Pool image features on the ground.

        Args:
            depth: Probability of each depth bin.
            features: Features of the lifted level.
            intrinsics: See :meth:`lift`.
            cam2key: See :meth:`lift`.
            ida_mats: See :meth:`lift`.
            image_size: H, W of the network's images, pixels.

        Returns:
            Index-ordered BEV map (:mod:`thinktwice.geometry.bev_grid`).
        """
        h, w = features.shape[-2:]
        # half precision is too coarse for coordinates and for sums over thousands of pixels
        with torch.autocast(features.device.type, enabled=False):
            points = self.lift(intrinsics.float(), cam2key.float(), ida_mats.float(), image_size, (h, w))
            pooled = splat(
                depth.float(), features.float(), self.bev_grid.cell_index(points), self.bev_grid.num_cells
            )
        return pooled.unflatten(-1, self.bev_grid.index_shape)


def _inverse(matrices: Float[Tensor, '*batch n n']) -> Float[Tensor, '*batch n n']:
    """Invert camera matrices without waiting for the device to report singular ones."""
    return torch.linalg.inv_ex(matrices).inverse
