"""Camera branch with the poses and the orientation of 2023 (docs/reference_quirks, M1, M2, M7)."""

import torch
from torch import Tensor

from thinktwice.model_code.backbones.camera_encoder import FrameCameras, LSSCameraEncoder
from thinktwice.registry import MODELS


def mirrored_teacher_orientation(index_map: Tensor) -> Tensor:
    """Turn an index-ordered map as in 2023: flipped, then rotated by a quarter (M7).

    ``out[i, j] = map[num_y - 1 - j, num_x - 1 - i]``: row 0 is farthest ahead, but column 0
    is rightmost, the mirror image of the teacher's maps.

    Args:
        index_map: (..., num_y, num_x).

    Returns:
        (..., num_x, num_y).
    """
    return index_map.transpose(-2, -1).flip(-2, -1)


@MODELS.register_module()
class ReferenceLSSCameraEncoder(LSSCameraEncoder):
    """Camera encoder of the 2023 code; arguments as for :class:`LSSCameraEncoder`."""

    def frame_cameras(
        self, intrinsics: Tensor, cam2ego: Tensor, frame2key: Tensor, ida_mats: Tensor, t: int
    ) -> FrameCameras:
        """Give every frame the key frame's cameras (M2), placed at the ego's origin (M1).

        The camera-to-ego matrix is the transpose of the ego-to-camera matrix: its rotation is
        right, its translation stands in the last row, which nothing reads. Lifted points miss
        the camera's position, and the depth network sees three zeros instead of it. The ego
        motion of a history frame is ignored.
        """
        ego2cam = torch.linalg.inv(cam2ego[:, -1].double()).to(cam2ego.dtype)
        transposed = ego2cam.transpose(-2, -1)
        return FrameCameras(intrinsics[:, -1], transposed, transposed, ida_mats[:, -1])

    def orient(self, bev: Tensor) -> Tensor:
        """Turn an index-ordered map, mirrored (M7)."""
        return mirrored_teacher_orientation(bev)
