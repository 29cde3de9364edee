"""Scene encoder of images alone, without a BEV map: the one of TCP (Wu et al., NeurIPS 2022)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from thinktwice.model_code.scene import ImagePyramid, SceneEncoder, SceneFeatures
from thinktwice.registry import MODELS


@MODELS.register_module()
class ImageSceneEncoder(SceneEncoder):
    """Backbone over the images of the key frame; the vector is the mean of its coarsest level.

    Args:
        backbone: Config of a registered image backbone that returns several levels.
        num_cameras: Cameras N; their mean features are joined by a linear layer.
        in_channels: Channels of the coarsest level.
        out_channels: Channels of the vector.
        init_cfg: Initialization config of mmengine.
    """

    input_keys = ('img', 'intrinsics', 'cam2ego', 'ida_mats')

    def __init__(
        self,
        backbone: dict[str, Any],
        num_cameras: int,
        in_channels: int,
        out_channels: int,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_cameras = num_cameras
        self.backbone = MODELS.build(backbone)
        self.join_cameras = nn.Sequential(nn.Linear(num_cameras * in_channels, out_channels), nn.ReLU())

    def forward(self, inputs: Mapping[str, Any]) -> SceneFeatures:
        """Encode the images of the key frame.

        Raises:
            ConfigError: If the number of cameras differs from ``num_cameras``.
        """
        images = self.key_frame_images(inputs, self.num_cameras)
        levels = [level.unflatten(0, images.shape[:2]) for level in self.backbone(images.flatten(0, 1))]
        vector = self.join_cameras(levels[-1].mean(dim=(-2, -1)).flatten(1))
        return SceneFeatures(vector=vector, images=ImagePyramid.of_key_frame(inputs, levels))
