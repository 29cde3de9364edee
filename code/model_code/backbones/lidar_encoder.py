"""LiDAR branch: point clouds to a BEV map by voxels and sparse convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int32
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.geometry.bev_grid import to_teacher_orientation
from thinktwice.model_code.ops import voxelize_batch
from thinktwice.registry import MODELS


@MODELS.register_module()
class LidarEncoder(BaseModule):
    """SECOND encoder (Yan et al., 2018) of a point cloud of several sweeps.

    Args:
        voxelize: As for ``mmcv.ops.Voxelization``: ``voxel_size`` and ``point_cloud_range`` in meters,
            ``max_num_points`` per voxel, ``max_voxels`` per cloud (in training, in evaluation).
        voxel_encoder: Config of a registered voxel encoder.
        middle_encoder: Config of a registered sparse encoder. Where its ``sparse_shape`` (z, y, x) has None,
            it is the number of voxels along that axis.
        backbone: Config of a registered 2D backbone.
        neck: Config of a registered neck that returns one map.
        init_cfg: Initialization config of mmengine.

    Raises:
        ValueError: If the voxel grid and the ``sparse_shape`` of the middle encoder differ in x or y.
    """

    voxel_size: Tensor
    lower: Tensor

    def __init__(
        self,
        voxelize: dict[str, Any],
        voxel_encoder: dict[str, Any],
        middle_encoder: dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.voxel_encoder = MODELS.build(voxel_encoder)
        if (shape := middle_encoder.get('sparse_shape')) is not None:
            cells = voxel_cells(voxelize['voxel_size'], voxelize['point_cloud_range'])[::-1]
            shape = [count if size is None else size for size, count in zip(shape, cells, strict=True)]
            middle_encoder = {**middle_encoder, 'sparse_shape': shape}
        self.middle_encoder = MODELS.build(middle_encoder)
        self.set_voxel_grid(**voxelize)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)

    def set_voxel_grid(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: Sequence[int],
    ) -> None:
        """Set the grid of the voxels, with its range clipped at the top of the sparse grid.

        In 2023 voxels above the sparse grid reached the encoder and activated cells of the next
        sample in the batch (docs/reference_quirks, M16).
        """
        lower, cells = point_cloud_range[:3], voxel_cells(voxel_size, point_cloud_range)
        depth, *plane = (int(size) for size in getattr(self.middle_encoder, 'sparse_shape', cells[::-1]))
        if plane != [cells[1], cells[0]]:
            raise ValueError(
                f'voxelize gives {cells[1]} x {cells[0]} cells (y, x), but sparse_shape of middle_encoder '
                f'says {plane[0]} x {plane[1]}: change voxel_size, point_cloud_range or sparse_shape'
            )
        self.grid_shape = (cells[0], cells[1], min(cells[2], depth))
        self.max_num_points = max_num_points
        self.max_voxels = tuple(max_voxels)
        self.register_buffer('voxel_size', torch.tensor(voxel_size, dtype=torch.float32), persistent=False)
        self.register_buffer('lower', torch.tensor(lower, dtype=torch.float32), persistent=False)

    def init_weights(self) -> None:
        """Initialize the weights, those of sparse convolutions uniformly within 1 / sqrt(fan in).

        The initialization of mmcv computes the fan from the wrong dimensions of its kernel layout.
        """
        super().init_weights()
        for module in self.middle_encoder.modules():
            if isinstance(getattr(module, 'weight', None), nn.Parameter) and module.weight.dim() == 5:
                bound = 1 / math.sqrt(module.in_channels * math.prod(module.kernel_size))
                nn.init.uniform_(module.weight, -bound, bound)

    def forward(self, points: Sequence[Float[Tensor, '_ 5']]) -> Float[Tensor, 'B C X Y']:
        """Encode one point cloud per sample.

        Args:
            points: For each sample x, y, z (meters, ego frame), intensity, frame offset; the number
                of points may differ and may be 0.

        Returns:
            BEV map in teacher orientation.
        """
        features, coordinates = self.encode_voxels(points)
        dense = self.middle_encoder(features, coordinates, len(points))
        if not len(features):
            # without voxels the sparse layers skip their norms, but DDP waits for the gradient of every
            # parameter
            dense = dense + 0 * sum(parameter.sum() for parameter in self.middle_encoder.parameters())
        (bev,) = self.neck(self.backbone(dense))
        return self.orient(bev)

    @torch.no_grad()
    def encode_voxels(
        self, points: Sequence[Float[Tensor, '_ 5']]
    ) -> tuple[Float[Tensor, 'V 5'], Int32[Tensor, 'V 4']]:
        """Group points into voxels and average them.

        Args:
            points: See :meth:`forward`.

        Returns:
            Features of all voxels of the batch, and their coordinates: sample, z, y, x index.
        """
        max_voxels = self.max_voxels[0 if self.training else 1]
        voxels, coordinates, counts = voxelize_batch(
            [cloud.float() for cloud in points],
            self.voxel_size,
            self.lower,
            self.grid_shape,
            self.max_num_points,
            max_voxels,
        )
        coordinates = coordinates.int()
        return self.voxel_encoder(voxels, counts, coordinates), coordinates

    def orient(self, bev: Float[Tensor, 'B C Y X']) -> Float[Tensor, 'B C X Y']:
        """Rotate an index-ordered map into teacher orientation, without mirroring it."""
        return to_teacher_orientation(bev)


def voxel_cells(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> list[int]:
    """Number of voxels along x, y and z.

    Args:
        voxel_size: Along x, y and z, meters.
        point_cloud_range: Lower and upper ends of x, y and z, meters.
    """
    lower, upper = point_cloud_range[:3], point_cloud_range[3:]
    return [round((upper[i] - lower[i]) / voxel_size[i]) for i in range(3)]
