"""Depth distribution and context features of each image, conditioned on its camera.

The network follows BEVDepth (Li et al., 2022): gates computed from the camera parameters scale the
channels of two branches, one for context and one for depth.
"""

from collections.abc import Sequence

from jaxtyping import Float
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from thinktwice.model_code.backbones.aspp import ASPP
from thinktwice.model_code.backbones.camera_vector import CAMERA_VECTOR_SIZE, build_camera_norm
from thinktwice.model_code.ops import DeformConv2dPack
from thinktwice.registry import MODELS


class CameraGate(nn.Module):
    """Squeeze-and-excitation whose gates are computed from the camera parameters.

    Args:
        channels: Channels of the gated features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(CAMERA_VECTOR_SIZE, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.squeeze_excite = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1)
        )

    def forward(
        self, features: Float[Tensor, 'B C h w'], vector: Float[Tensor, 'B 22']
    ) -> Float[Tensor, 'B C h w']:
        """Multiply features by gates in (0, 1)."""
        gates = self.squeeze_excite(self.mlp(vector)[..., None, None]).sigmoid()
        return features * gates


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization and a residual connection.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, 'B C h w']) -> Float[Tensor, 'B C h w']:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


@MODELS.register_module()
class CameraAwareDepthNet(BaseModule):
    """Depth logits and context features from image features and camera parameters.

    Args:
        in_channels: Channels of the image features.
        mid_channels: Channels of the hidden layers.
        context_channels: Channels of the context features.
        num_bins: Depth bins.
        aspp_dilations: Dilations of the branches of the ASPP, pixels of the feature map.
        aspp_dropout: Dropout probability after the ASPP.
        deform_conv_groups: Groups of the deformable convolution.
        num_residual_blocks: Residual blocks of the depth branch.
        camera_norm: Normalization of the camera vector, see :func:`build_camera_norm`.

    Raises:
        ValueError: If ``camera_norm`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        context_channels: int,
        num_bins: int,
        aspp_dilations: Sequence[int] = (1, 6, 12, 18),
        aspp_dropout: float = 0.5,
        deform_conv_groups: int = 4,
        num_residual_blocks: int = 3,
        camera_norm: str = 'batch',
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.context_channels = context_channels
        self.camera_norm = build_camera_norm(camera_norm)
        self.reduce_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
        )
        self.context_gate = CameraGate(mid_channels)
        self.context_conv = nn.Conv2d(mid_channels, context_channels, 1)
        self.depth_gate = CameraGate(mid_channels)
        self.depth_conv = Sequential(
            *(ResidualBlock(mid_channels) for _ in range(num_residual_blocks)),
            ASPP(mid_channels, aspp_dilations, aspp_dropout),
            DeformConv2dPack(mid_channels, mid_channels, 3, padding=1, groups=deform_conv_groups),
            nn.Conv2d(mid_channels, num_bins, 1),
        )

    def forward(
        self, features: Float[Tensor, 'BN in_channels h w'], vector: Float[Tensor, 'BN 22']
    ) -> tuple[Float[Tensor, 'BN D h w'], Float[Tensor, 'BN context_channels h w']]:
        """Predict depth logits and context features.

        Args:
            features: Image features, cameras folded into the batch.
            vector: Camera vectors in the same order, see :func:`camera_vector`.
        """
        vector = self.camera_norm(vector)
        features = self.reduce_conv(features)
        context = self.context_conv(self.context_gate(features, vector))
        return self.depth_conv(self.depth_gate(features, vector)), context
