"""Camera branch with the poses and the orientation of 2023 (docs/reference_quirks, M1, M2, M7)."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from thinktwice.model_code.backbones.camera_encoder import FrameCameras, LSSCameraEncoder
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
