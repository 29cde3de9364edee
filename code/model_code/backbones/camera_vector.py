"""The numbers that tell the depth network which camera it looks through."""

import torch
from torch import Tensor, nn

from thinktwice.model_code.backbones.single_value_batch_norm import SingleValueBatchNorm1d

#: focal lengths and principal point (4), image augmentation (6), camera-to-ego rows (12)
CAMERA_VECTOR_SIZE = 22

#: typical magnitude of each entry: pixels for intrinsics and shifts, 1 for factors and meters
_FIXED_SCALES = (1000.0,) * 4 + (1.0, 1.0, 100.0) * 2 + (1.0,) * 12


def camera_vector(intrinsics: Tensor, ida_mats: Tensor, cam2ego: Tensor) -> Tensor:
    """Collect the parameters of each camera.

    Args:
        intrinsics: (..., 3, 3) pixels of the undistorted raw image.
        ida_mats: (..., 4, 4) image augmentation, original to final pixel.
        cam2ego: (..., 4, 4) camera to the ego frame of the image's own moment, meters.

    Returns:
        (..., 22): fx, fy, cx, cy; the factors and the shift of both pixel axes; rows 0..2
        of ``cam2ego``, row by row.
    """
    lens = [intrinsics[..., 0, 0], intrinsics[..., 1, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]]
    augmentation = [ida_mats[..., row, column] for row in (0, 1) for column in (0, 1, 3)]
    return torch.cat((torch.stack(lens + augmentation, dim=-1), cam2ego[..., :3, :].flatten(-2)), dim=-1)


class FixedCameraNorm(nn.Module):
    """Division by typical magnitudes: the same for any batch, nothing to learn.

    Most entries are constant over a dataset, so batch normalization amplifies the
    rounding noise in their variance; this is the alternative (docs/reference_quirks, M28).
    """

    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('scales', torch.tensor(_FIXED_SCALES), persistent=False)

    def forward(self, vector: Tensor) -> Tensor:
        """Scale (B, 22) camera vectors to the order of 1."""
        return vector / self.scales


def build_camera_norm(name: str) -> nn.Module:
    """Make the normalization of camera vectors.

    Args:
        name: ``'batch'``, batch normalization as in the paper, or ``'fixed'``.

    Raises:
        ValueError: If the name is neither.
    """
    if name == 'batch':
        return SingleValueBatchNorm1d(CAMERA_VECTOR_SIZE)
    if name == 'fixed':
        return FixedCameraNorm()
    raise ValueError(f"camera_norm must be 'batch' or 'fixed', got {name!r}")
