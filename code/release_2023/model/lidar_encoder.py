"""LiDAR branch with the padding and the orientation of 2023 (docs/reference_quirks, M7, M17)."""

from collections.abc import Sequence

from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional as F

from thinktwice.model_code.backbones.lidar_encoder import LidarEncoder
from thinktwice.registry import MODELS
from thinktwice.release_2023.model.camera_encoder import mirrored_teacher_orientation


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
