"""Camera parameters as an input vector of the depth network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.backbones.single_value_batch_norm import SingleValueBatchNorm1d

#: focal lengths and principal point (4), image augmentation (6), camera-to-ego rows (12)
CAMERA_VECTOR_SIZE = 22

#: typical magnitude of each entry: pixels for intrinsics and translations, 1 for scale factors and meters
_FIXED_SCALES = (1000.0,) * 4 + (1.0, 1.0, 100.0) * 2 + (1.0,) * 12


def camera_vector(
    intrinsics: Float[Tensor, '*batch 3 3'],
    ida_mats: Float[Tensor, '*batch 4 4'],
    cam2ego: Float[Tensor, '*batch 4 4'],
) -> Float[Tensor, '*batch 22']:
    """Collect the parameters of each camera.

    Args:
        intrinsics: Pixels of the undistorted raw image.
        ida_mats: Pixel of the raw image to pixel of the network's image.
        cam2ego: Camera to the ego frame at the time of the image, meters.

    Returns:
        fx, fy, cx, cy; the first two rows of ``ida_mats`` without the third column; the first three
        rows of ``cam2ego``.
    """
    lens = [intrinsics[..., 0, 0], intrinsics[..., 1, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]]
    augmentation = [ida_mats[..., row, column] for row in (0, 1) for column in (0, 1, 3)]
    return torch.cat((torch.stack(lens + augmentation, dim=-1), cam2ego[..., :3, :].flatten(-2)), dim=-1)


class FixedCameraNorm(nn.Module):
    """Division by typical magnitudes, without parameters or batch statistics.

    Most entries are constant over a dataset, so batch normalization amplifies the rounding noise in
    their variance (docs/reference_quirks, M28).
    """

    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('scales', torch.tensor(_FIXED_SCALES), persistent=False)

    def forward(self, vector: Float[Tensor, 'B 22']) -> Float[Tensor, 'B 22']:
        """Scale camera vectors to the order of 1."""
        return vector / self.scales


def build_camera_norm(name: str) -> nn.Module:
    """Build the normalization of camera vectors.

    Args:
        name: ``'batch'`` for batch normalization, as in the paper, or ``'fixed'``.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == 'batch':
        return SingleValueBatchNorm1d(CAMERA_VECTOR_SIZE)
    if name == 'fixed':
        return FixedCameraNorm()
    raise ValueError(f"camera_norm must be 'batch' or 'fixed', got {name!r}")
