"""What sensor encoders give to planners."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int64
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.model_code.projection import ego_to_image


@dataclass(frozen=True)
class ImagePyramid:
    """Image features of the cameras of the key frame.

    Attributes:
        levels: Features of each level, fine to coarse, each half the size of the previous one.
        ego2img: Ego frame in meters to pixels of the raw image times depth.
        ida_mats: Pixel of the raw image to pixel of the network's image.
        image_size: H, W of the network's images, pixels.
    """

    levels: list[Float[Tensor, 'B N _ _ _']]
    ego2img: Float[Tensor, 'B N 4 4']
    ida_mats: Float[Tensor, 'B N 4 4']
    image_size: tuple[int, int]

    @classmethod
    def of_key_frame(
        cls, inputs: Mapping[str, Any], levels: list[Float[Tensor, 'B N _ _ _']]
    ) -> 'ImagePyramid':
        """Features of the key frame with its cameras.

        Args:
            inputs: Inputs of the model, with img, intrinsics, cam2ego and ida_mats.
            levels: See the class.
        """
        img = inputs['img']
        return cls(
            levels=levels,
            ego2img=ego_to_image(inputs['intrinsics'][:, -1].float(), inputs['cam2ego'][:, -1].float()),
            ida_mats=inputs['ida_mats'][:, -1].float(),
            image_size=(img.shape[-2], img.shape[-1]),
        )


@dataclass(frozen=True)
class SceneFeatures:
    """Output of a sensor encoder: what it has, and None for the rest.

    Attributes:
        bev_map: BEV feature map in teacher orientation.
        vector: The scene as one vector.
        bev_levels: The BEV map and the smaller maps made from it.
        images: Image features of the key frame.
        lidar_map: BEV map of the LiDAR alone in teacher orientation.
        flatten_head: The head that made the vector and the smaller maps of the BEV map, for the maps that
            a planner predicts; called as :class:`BEVFlattenHead`.
        auxiliary: Further outputs for losses and metrics, such as ``depth_logits`` (B, N, D, h, w) and
            ``seg_logits`` (B, N, classes, H / 2, W / 2).
    """

    bev_map: Float[Tensor, 'B C X Y'] | None = None
    vector: Float[Tensor, 'B Cv'] | None = None
    bev_levels: list[Float[Tensor, 'B _ _ _']] | None = None
    images: ImagePyramid | None = None
    lidar_map: Float[Tensor, 'B Cl _ _'] | None = None
    flatten_head: nn.Module | None = None
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """What the vehicle measures, and the route.

    Attributes:
        speed: m/s.
        target_point: x, y of the next point of the route in the ego frame, meters.
        command: Navigation command, from 0.
        features: All three, encoded.
    """

    speed: Float[Tensor, ' B']
    target_point: Float[Tensor, 'B 2']
    command: Int64[Tensor, ' B']
    features: Float[Tensor, 'B Cm']


class SceneEncoder(BaseModule):
    """Base class of encoders of all sensors.

    Attributes:
        input_keys: Inputs of the model that the encoder reads.
    """

    input_keys: tuple[str, ...] = ()

    def forward(self, inputs: Mapping[str, Any]) -> SceneFeatures:
        """Encode the sensors.

        Args:
            inputs: Inputs of the model, with those of ``input_keys``.
        """
        raise NotImplementedError

    @staticmethod
    def key_frame_images(inputs: Mapping[str, Any], num_cameras: int) -> Float[Tensor, 'B N 3 H W']:
        """Images of the key frame.

        Raises:
            ConfigError: If there is another number of cameras.
        """
        images = inputs['img'][:, -1]
        if images.shape[1] != num_cameras:
            raise ConfigError(
                f'num_cameras={num_cameras}, but the samples hold {images.shape[1]} cameras: set '
                f"num_cameras={images.shape[1]}, or list the cameras to use: cameras=['front', ...]"
            )
        return images
