"""Sensor encoders of 2023 (docs/reference_quirks, M1, M2, M7, M17, M22 to M24)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int32, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from thinktwice.geometry.bev_grid import BEVGrid, Bounds
from thinktwice.model_code.backbones.camera_encoder import FrameCameras, LSSCameraEncoder
from thinktwice.model_code.backbones.lidar_encoder import LidarEncoder
from thinktwice.model_code.backbones.view_transform import LiftSplat
from thinktwice.registry import MODELS


def mirrored_teacher_orientation(index_map: Shaped[Tensor, '*batch Y X']) -> Shaped[Tensor, '*batch X Y']:
    """Rotate an index-ordered map as in 2023: flipped, then rotated by 90 degrees (M7).

    ``out[i, j] = map[num_y - 1 - j, num_x - 1 - i]``: row 0 is farthest ahead, but column 0 is
    rightmost, a mirror image of the teacher's maps.
    """
    return index_map.transpose(-2, -1).flip(-2, -1)


@MODELS.register_module()
class ReferenceLSSCameraEncoder(LSSCameraEncoder):
    """Camera encoder of the 2023 code; arguments as for :class:`LSSCameraEncoder`."""

    def frame_cameras(
        self,
        intrinsics: Float[Tensor, 'B T N 3 3'],
        cam2ego: Float[Tensor, 'B T N 4 4'],
        frame2key: Float[Tensor, 'B T 4 4'],
        ida_mats: Float[Tensor, 'B T N 4 4'],
        t: int,
    ) -> FrameCameras:
        """Return the cameras of the key frame for every frame (M2), at the origin of the ego frame (M1).

        The camera-to-ego matrix is the transpose of the ego-to-camera matrix: its rotation is correct,
        but its translation is in the last row, which is never read. Lifted points lack the position of
        the camera, and the depth network gets three zeros instead of it. The ego motion between frames
        is ignored.
        """
        ego2cam = torch.linalg.inv(cam2ego[:, -1].double()).to(cam2ego.dtype)
        transposed = ego2cam.transpose(-2, -1)
        return FrameCameras(intrinsics[:, -1], transposed, transposed, ida_mats[:, -1])

    def orient(self, bev: Float[Tensor, 'B C Y X']) -> Float[Tensor, 'B C X Y']:
        """Rotate an index-ordered map, mirrored (M7)."""
        return mirrored_teacher_orientation(bev)


@MODELS.register_module()
class ReferenceLidarEncoder(LidarEncoder):
    """LiDAR encoder of the 2023 code; arguments as for :class:`LidarEncoder`.

    Two errors are not reproduced: the result of one depends on the sparse convolution library (voxels
    above the sparse grid, M16), the other raises (a batch whose last sample has no point in range, M18).
    """

    def encode_voxels(
        self, points: Sequence[Float[Tensor, '_ 5']]
    ) -> tuple[Float[Tensor, 'V 5'], Int32[Tensor, 'V 4']]:
        """Group points into voxels, after padding all clouds to the longest one (M17).

        Padding with zeros adds points at the origin of the ego frame: every cloud but the longest of
        the batch gets a spurious voxel there.
        """
        longest = max(len(cloud) for cloud in points)
        return super().encode_voxels([F.pad(cloud, (0, 0, 0, longest - len(cloud))) for cloud in points])

    def orient(self, bev: Float[Tensor, 'B C Y X']) -> Float[Tensor, 'B C X Y']:
        """Rotate an index-ordered map, mirrored (M7)."""
        return mirrored_teacher_orientation(bev)


class ReferenceBEVGrid(BEVGrid):
    """Grid whose cell indices are truncated toward zero (M22).

    The first cell of each axis also collects points up to one cell below the range: x from -9.83 m,
    y from -21.03 m and z from -18 m in the published model.
    """

    def axis_indices(self, points: Float[Tensor, '*points 3']) -> Int64[Tensor, '*points 3']:
        """Index of the cell along each axis; see :meth:`BEVGrid.axis_indices`."""
        size = points.new_tensor(self.cell_size)
        # 2023 stores the center of the first cell, whose rounding affects the results
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

    def bin_depths(self) -> Float[Tensor, ' D']:
        """Depth in meters at which each bin is lifted: its lower end (M24).

        Depths of 10.0 to 10.5 m are lifted at 10.0 m, 0.25 m too near on average.
        """
        lower, _, size = self.depth_bounds
        return lower + torch.arange(self.num_bins) * size

    def pixel_centers(
        self, image_size: tuple[int, int], map_size: tuple[int, int]
    ) -> tuple[Float[Tensor, ' w'], Float[Tensor, ' h']]:
        """Columns and rows evenly spaced from the first to the last pixel (M23).

        They are up to 7.5 pixels away from the centers of the cells whose features they lift.
        """
        columns, rows = (
            torch.linspace(0, size - 1, cells, device=self.depth_values.device)
            for size, cells in zip(image_size[::-1], map_size[::-1], strict=True)
        )
        return columns, rows

    def lift(
        self,
        intrinsics: Float[Tensor, 'B N 3 3'],
        cam2key: Float[Tensor, 'B N 4 4'],
        ida_mats: Float[Tensor, 'B N 4 4'],
        image_size: tuple[int, int],
        map_size: tuple[int, int],
    ) -> Float[Tensor, 'B N D h w 3']:
        """Compute the position of every pixel and depth bin as :meth:`LiftSplat.lift` does.

        The result is the same up to rounding. The operations are in the order of 2023, because a point
        that is rounded to the other side of a cell border moves its whole feature to another cell.
        """
        frustum = self.frustum(image_size, map_size).to(intrinsics)[..., None]  # (D, h, w, 4, 1)
        points = ida_mats.inverse()[:, :, None, None, None] @ frustum
        points = torch.cat((points[..., :2, :] * points[..., 2:3, :], points[..., 2:, :]), dim=-2)
        lens = torch.eye(4).to(intrinsics).repeat(*intrinsics.shape[:2], 1, 1)
        lens[..., :3, :3] = intrinsics
        pixel2key = cam2key @ lens.inverse()
        return (pixel2key[:, :, None, None, None] @ points)[..., :3, 0]

    def frustum(
        self, image_size: tuple[int, int], map_size: tuple[int, int]
    ) -> Float[Tensor, 'D {map_size[0]} {map_size[1]} 4']:
        """Column, row, depth and 1 of every pixel and bin."""
        columns, rows = self.pixel_centers(image_size, map_size)
        depth, v, u = torch.meshgrid(self.depth_values, rows, columns, indexing='ij')
        return torch.stack((u, v, depth, torch.ones_like(u)), dim=-1)

    def official_buffers(
        self, image_size: tuple[int, int], map_size: tuple[int, int]
    ) -> dict[str, Shaped[Tensor, '...']]:
        """The buffers of the 2023 encoder that follow from its config.

        Args:
            image_size: H, W of the network's images, pixels.
            map_size: h, w of the lifted level.

        Returns:
            ``voxel_size`` (3,), ``voxel_coord`` (3,) center of the first cell, ``voxel_num`` (3,)
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
