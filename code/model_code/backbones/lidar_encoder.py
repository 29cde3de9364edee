"""LiDAR branch: point clouds to a BEV map through voxels and sparse convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import Voxelization
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.geometry.bev_grid import to_teacher_orientation
from thinktwice.registry import MODELS


@MODELS.register_module()
class LidarEncoder(BaseModule):
    """SECOND-style encoder (Yan et al., 2018) of a cloud with several sweeps.

    Args:
        voxelize: Arguments of ``mmcv.ops.Voxelization``: ``voxel_size`` and
            ``point_cloud_range`` in meters, ``max_num_points`` kept in a voxel, ``max_voxels``
            kept in a cloud (in training, in evaluation).
        voxel_encoder: Config of a registered voxel encoder.
        middle_encoder: Config of a registered sparse encoder.
        backbone: Config of a registered 2D backbone.
        neck: Config of a registered neck that returns one map.
        init_cfg: Initialization of mmengine.

    Raises:
        ValueError: If the voxel grid and the middle encoder's ``sparse_shape`` disagree in x or y.
    """

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
        self.middle_encoder = MODELS.build(middle_encoder)
        self.voxelize = self.build_voxelization(**voxelize)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)

    def build_voxelization(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: Sequence[int],
    ) -> Voxelization:
        """Make the voxelization, its range cut at the top of the sparse grid.

        A voxel above the declared grid has no place in it; in 2023 such voxels reached the
        encoder and lit up cells of the next sample in the batch.
        """
        lower, upper = list(point_cloud_range[:3]), list(point_cloud_range[3:])
        cells = [round((upper[i] - lower[i]) / voxel_size[i]) for i in range(3)]
        depth, *plane = (int(size) for size in getattr(self.middle_encoder, 'sparse_shape', cells[::-1]))
        if plane != [cells[1], cells[0]]:
            raise ValueError(
                f'voxelize gives {cells[1]} x {cells[0]} cells (y, x), but sparse_shape of middle_encoder '
                f'says {plane[0]} x {plane[1]}: change voxel_size, point_cloud_range or sparse_shape'
            )
        upper[2] = min(upper[2], lower[2] + depth * voxel_size[2])
        return Voxelization(
            voxel_size=list(voxel_size),
            point_cloud_range=[*lower, *upper],
            max_num_points=max_num_points,
            max_voxels=tuple(max_voxels),
        )

    def init_weights(self) -> None:
        """Initialize, the sparse convolutions uniformly within 1 / sqrt(fan in).

        mmcv's own rule takes the fan from the wrong axes of its kernel layout.
        """
        super().init_weights()
        for module in self.middle_encoder.modules():
            if isinstance(getattr(module, 'weight', None), nn.Parameter) and module.weight.dim() == 5:
                bound = 1 / math.sqrt(module.in_channels * math.prod(module.kernel_size))
                nn.init.uniform_(module.weight, -bound, bound)

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """Encode one cloud per sample.

        Args:
            points: B tensors (P, 5): x, y, z (ego meters), intensity, frame offset; P may differ
                and may be 0.

        Returns:
            (B, C, X, Y) in teacher orientation.
        """
        features, coordinates = self.encode_voxels(points)
        dense = self.middle_encoder(features, coordinates, len(points))
        if not len(features):
            # sparse layers skip their norms when there is no voxel; data-parallel training waits for the
            # gradient of every parameter
            dense = dense + 0 * sum(parameter.sum() for parameter in self.middle_encoder.parameters())
        (bev,) = self.neck(self.backbone(dense))
        return self.orient(bev)

    @torch.no_grad()
    def encode_voxels(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Group points into voxels and average them.

        Args:
            points: See :meth:`forward`.

        Returns:
            Features (V, 5) of all voxels of the batch, and their int32 coordinates (V, 4):
            sample, z, y, x index.
        """
        features, coordinates = [], []
        for sample, cloud in enumerate(points):
            voxels, indices, counts = self.voxelize(cloud.float())
            features.append(self.voxel_encoder(voxels, counts, indices))
            coordinates.append(nn.functional.pad(indices, (1, 0), value=sample))
        return torch.cat(features), torch.cat(coordinates)

    def orient(self, bev: Tensor) -> Tensor:
        """Turn an index-ordered map into teacher orientation, without mirroring it."""
        return to_teacher_orientation(bev)
