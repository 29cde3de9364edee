"""LiDAR branch with the padding and the orientation of 2023 (docs/reference_quirks, M7, M17)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from thinktwice.model_code.backbones.lidar_encoder import LidarEncoder
from thinktwice.registry import MODELS
from thinktwice.release_2023.model.camera_encoder import mirrored_teacher_orientation


@MODELS.register_module()
class ReferenceLidarEncoder(LidarEncoder):
    """LiDAR encoder of the 2023 code; arguments as for :class:`LidarEncoder`.

    Two slips are not reproduced, because their result is an accident of the sparse library
    (voxels above the declared grid, M16) or an error (a batch whose last sample has no point
    in range, M18).
    """

    def encode_voxels(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Group points into voxels, after padding all clouds to the longest one (M17).

        The padding is zeros, which are points at the ego's origin: every cloud but the longest
        of the batch gets a phantom voxel there.
        """
        longest = max(len(cloud) for cloud in points)
        return super().encode_voxels([F.pad(cloud, (0, 0, 0, longest - len(cloud))) for cloud in points])

    def orient(self, bev: Tensor) -> Tensor:
        """Turn an index-ordered map, mirrored (M7)."""
        return mirrored_teacher_orientation(bev)
