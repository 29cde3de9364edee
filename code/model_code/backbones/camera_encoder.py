"""Camera branch: images of several frames to one BEV map in the ego frame of the key frame."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from mmengine.model import BaseModule
from torch import Tensor, nn

from thinktwice.errors import ConfigError
from thinktwice.geometry.bev_grid import to_teacher_orientation
from thinktwice.model_code.backbones.camera_vector import camera_vector
from thinktwice.registry import MODELS


@dataclass
class CameraFeatures:
    """Output of the camera branch; all but ``bev`` belong to the key frame.

    Attributes:
        bev: BEV map of all frames in teacher orientation.
        depth_logits: At the size of the lifted level.
        seg_logits: At half the size of the images; None without a segmentation head.
        fpn: Output of each level of the neck, fine to coarse.
    """

    bev: Float[Tensor, 'B C X Y']
    depth_logits: Float[Tensor, 'B N D h w']
    seg_logits: Float[Tensor, 'B N classes _ _'] | None
    fpn: list[Float[Tensor, 'B N _ _ _']]


@dataclass
class ImageFeatures:
    """Features of the images of one frame, before they are lifted; see :class:`CameraFeatures`.

    Attributes:
        features: Features to lift.
    """

    depth_logits: Float[Tensor, 'B N D h w']
    features: Float[Tensor, 'B N C h w']
    seg_logits: Float[Tensor, 'B N classes _ _'] | None
    fpn: list[Float[Tensor, 'B N _ _ _']]


@dataclass
class FrameCameras:
    """The cameras of one frame.

    Attributes:
        intrinsics: Pixels of the undistorted raw image.
        cam2ego: Camera to the ego frame at the same time, meters; for the depth network.
        cam2key: Camera to the ego frame of the key frame, meters; for lifting.
        ida_mats: Pixel of the raw image to pixel of the network's image.
    """

    intrinsics: Float[Tensor, 'B N 3 3']
    cam2ego: Float[Tensor, 'B N 4 4']
    cam2key: Float[Tensor, 'B N 4 4']
    ida_mats: Float[Tensor, 'B N 4 4']


class FrameMemory:
    """Features of the key frames of the last batches, found again by their images and cameras.

    A vehicle that drives uses each frame twice: as the key frame, and later as history.

    Args:
        batches: Number of batches whose key frames are kept.
    """

    def __init__(self, batches: int) -> None:
        self._batches: deque[dict[bytes, tuple[Tensor, Tensor]]] = deque(maxlen=batches)

    def keep(
        self,
        img: Float[Tensor, 'B N 3 H W'],
        vectors: Float[Tensor, 'B N V'],
        depth_logits: Float[Tensor, 'B N D h w'],
        features: Float[Tensor, 'B N C h w'],
    ) -> None:
        """Keep the features of a batch of key frames."""
        values = zip(depth_logits, features, strict=True)
        self._batches.append(dict(zip(_contents(img, vectors), values, strict=True)))

    def find(
        self, img: Float[Tensor, 'B N 3 H W'], vectors: Float[Tensor, 'B N V']
    ) -> tuple[Float[Tensor, 'B N D h w'], Float[Tensor, 'B N C h w']] | None:
        """Depth logits and features of a batch; None if those of a sample are not there."""
        found = []
        for content in _contents(img, vectors):
            values = next((batch[content] for batch in self._batches if content in batch), None)
            if values is None:
                return None
            found.append(values)
        depth_logits, features = zip(*found, strict=True)
        return torch.stack(depth_logits), torch.stack(features)


def _contents(*tensors: Tensor) -> list[bytes]:
    """The bytes of each sample of a batch on the CPU."""
    arrays = [tensor.numpy() for tensor in tensors]
    return [b''.join(array[b].tobytes() for array in arrays) for b in range(len(arrays[0]))]


@MODELS.register_module()
class LSSCameraEncoder(BaseModule):
    """Lift-splat encoder of several frames (the camera branch of the paper's BEV encoder).

    Args:
        backbone: Config of a registered image backbone that returns several levels.
        neck: Config of a registered neck that returns levels fine to coarse. If its ``in_channels`` is
            None, they are the ``out_channels`` of the backbone, which has to tell them.
        depth_net: Config of the depth network without ``num_bins``, which comes from ``view_transform``.
        seg_head: Config of the segmentation head, which takes all levels of the neck; None for none.
        seg_branch: Config of the branch that turns segmentation logits into features of the BEV map; None
            for none.
        view_transform: Config of :class:`LiftSplat` or a replacement.
        neck_channels: Channels of the lifted level of the neck.
        lift_level: Index of the level of the neck that is lifted.
        out_channels: Channels of the lifted features and of the BEV map.
        num_frames: Number of frames including the key frame; at least 1.
        init_cfg: Initialization config of mmengine.

    Attributes:
        memory: Spares to encode history frames that were key frames before. Set while the model drives; for
            inference on the CPU.

    Raises:
        ValueError: If ``num_frames`` is below 1.
        ConfigError: If there is a ``seg_branch`` without a ``seg_head``, or the channels of the neck are not
            configured and the backbone does not tell its.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        depth_net: dict[str, Any],
        seg_head: dict[str, Any] | None,
        seg_branch: dict[str, Any] | None,
        view_transform: dict[str, Any],
        neck_channels: int,
        lift_level: int,
        out_channels: int,
        num_frames: int,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_frames < 1:
            raise ValueError(f'num_frames counts the key frame too and must be at least 1, got {num_frames}')
        self.memory: FrameMemory | None = None
        self.num_frames = num_frames
        self.lift_level = lift_level
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(_with_channels(neck, self.backbone))
        self.view_transform = MODELS.build(view_transform)
        self.depth_net = MODELS.build({**depth_net, 'num_bins': self.view_transform.num_bins})
        if seg_branch is not None and seg_head is None:
            raise ConfigError(
                'model.img_encoder.seg_branch reads the logits of seg_head, which is None: set both to None'
            )
        self.seg_head = None if seg_head is None else MODELS.build(seg_head)
        self.seg_branch = None if seg_branch is None else MODELS.build(seg_branch)
        self.lift_conv = nn.Conv2d(neck_channels, self.depth_net.in_channels, 1)
        merged = self.depth_net.context_channels
        if self.seg_branch is not None:
            merged += self.seg_branch.out_channels
        self.merge_seg_conv = nn.Conv2d(merged, out_channels, 3, padding=1)
        self.merge_frames_conv = nn.Conv2d(num_frames * out_channels, out_channels, 3, padding=1, bias=False)

    def forward(
        self,
        img: Float[Tensor, 'B T N 3 H W'],
        intrinsics: Float[Tensor, 'B T N 3 3'],
        cam2ego: Float[Tensor, 'B T N 4 4'],
        frame2key: Float[Tensor, 'B T 4 4'],
        ida_mats: Float[Tensor, 'B T N 4 4'],
    ) -> CameraFeatures:
        """Encode all frames with the same weights; history frames without gradient.

        Args:
            img: Normalized images, oldest frame first, key frame last.
            intrinsics: Pixels of the undistorted raw image.
            cam2ego: Camera to the ego frame at the time of its own frame, meters.
            frame2key: Ego frame of each frame to that of the key frame, meters.
            ida_mats: Pixel of the raw image to pixel of the network's image.

        Returns:
            BEV map of all frames; logits and levels of the key frame.

        Raises:
            ConfigError: If the number of frames differs from ``num_frames``, the image size is not a
                multiple of the coarsest stride, or the backbone and the neck differ in channels.
        """
        if img.shape[1] != self.num_frames:
            raise ConfigError(
                f'num_frames: the samples hold {img.shape[1]} frames, but the camera encoder was built with '
                f'num_frames={self.num_frames}: set both to the same number'
            )
        cameras = [
            self.frame_cameras(intrinsics, cam2ego, frame2key, ida_mats, t) for t in range(self.num_frames)
        ]
        size = (img.shape[-2], img.shape[-1])
        key = self.encode_key_frame(img[:, -1], cameras[-1])
        maps = [self.lift(key.depth_logits, key.features, cameras[-1], size)]
        with torch.no_grad():
            for t in reversed(range(self.num_frames - 1)):  # newest first, after the key frame
                maps.append(self.lift(*self.encode_history_frame(img[:, t], cameras[t]), cameras[t], size))
        bev = self.orient(self.merge_frames_conv(torch.cat(maps, dim=1)))
        return CameraFeatures(bev, key.depth_logits, key.seg_logits, key.fpn)

    def frame_cameras(
        self,
        intrinsics: Float[Tensor, 'B T N 3 3'],
        cam2ego: Float[Tensor, 'B T N 4 4'],
        frame2key: Float[Tensor, 'B T 4 4'],
        ida_mats: Float[Tensor, 'B T N 4 4'],
        t: int,
    ) -> FrameCameras:
        """Select the cameras of frame ``t``, with their poses in the ego frame of the key frame.

        The images of a history frame are lifted from the poses that its cameras had. (2023 used
        the poses of the key frame without the cameras' positions; docs/reference_quirks, M1 and M2.)
        """
        with torch.autocast(cam2ego.device.type, enabled=False):  # bfloat16 would move a camera by decimeters
            cam2key = frame2key[:, t, None].float() @ cam2ego[:, t].float()
        return FrameCameras(intrinsics[:, t], cam2ego[:, t], cam2key, ida_mats[:, t])

    def encode_key_frame(self, img: Float[Tensor, 'B N 3 H W'], cameras: FrameCameras) -> ImageFeatures:
        """Encode the images of the key frame."""
        vectors = camera_vector(cameras.intrinsics, cameras.ida_mats, cameras.cam2ego)
        key = self.encode_images(img, vectors)
        if self.memory is not None:
            self.memory.keep(img, vectors, key.depth_logits, key.features)
        return key

    def encode_history_frame(
        self, img: Float[Tensor, 'B N 3 H W'], cameras: FrameCameras
    ) -> tuple[Float[Tensor, 'B N D h w'], Float[Tensor, 'B N C h w']]:
        """Depth logits and features to lift of a history frame."""
        vectors = camera_vector(cameras.intrinsics, cameras.ida_mats, cameras.cam2ego)
        if self.memory is not None and (found := self.memory.find(img, vectors)):
            return found
        encoded = self.encode_images(img, vectors)
        return encoded.depth_logits, encoded.features

    def encode_images(
        self, img: Float[Tensor, 'B N 3 H W'], vectors: Float[Tensor, 'B N 22']
    ) -> ImageFeatures:
        """Encode the images of one frame, given their camera vectors."""
        B, N = img.shape[:2]
        images = img.flatten(0, 1)
        if images.device.type == 'cpu':  # the layers keep this format, which is faster with few channels
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.backbone(images)
        check_neck_channels(self.neck, features)
        levels = self.neck(features)
        check_image_size(levels, (img.shape[-2], img.shape[-1]))
        depth_logits, context = self.depth_net(self.lift_conv(levels[self.lift_level]), vectors.flatten(0, 1))
        seg_logits = None if self.seg_head is None else self.seg_head(levels)
        if self.seg_branch is not None:
            context = torch.cat((context, self.seg_branch(seg_logits)), dim=1)
        features = self.merge_seg_conv(context)
        depth_logits, features, *fpn = (x.unflatten(0, (B, N)) for x in (depth_logits, features, *levels))
        if seg_logits is not None:
            seg_logits = seg_logits.unflatten(0, (B, N))
        return ImageFeatures(depth_logits, features, seg_logits, fpn)

    def lift(
        self,
        depth_logits: Float[Tensor, 'B N D h w'],
        features: Float[Tensor, 'B N C h w'],
        cameras: FrameCameras,
        image_size: tuple[int, int],
    ) -> Float[Tensor, 'B C Y X']:
        """Lift the images of one frame to an index-ordered BEV map."""
        depth = depth_logits.softmax(dim=2, dtype=torch.float32)
        return self.view_transform(
            depth, features, cameras.intrinsics, cameras.cam2key, cameras.ida_mats, image_size
        )

    def orient(self, bev: Float[Tensor, 'B C Y X']) -> Float[Tensor, 'B C X Y']:
        """Rotate an index-ordered map into teacher orientation, without mirroring it."""
        return to_teacher_orientation(bev)


def _with_channels(neck: dict[str, Any], backbone: nn.Module) -> dict[str, Any]:
    """The config of a neck, with the channels of the backbone where it has None."""
    if neck.get('in_channels', ()) is not None:
        return neck
    channels = getattr(backbone, 'out_channels', None)
    if channels is None:
        raise ConfigError(
            f'model.img_encoder.neck.in_channels is None, but {type(backbone).__name__} does not tell its '
            'channels: list those of its levels'
        )
    return {**neck, 'in_channels': list(channels)}


def check_neck_channels(neck: nn.Module, features: Sequence[Shaped[Tensor, 'B _ _ _']]) -> None:
    """Check that the levels of the backbone have the channels that the neck was built for.

    Args:
        neck: Checked only if its ``in_channels`` is a sequence.
        features: Levels of the backbone.

    Raises:
        ConfigError: With the channels to set.
    """
    expected = getattr(neck, 'in_channels', None)
    found = [feature.shape[1] for feature in features]
    if isinstance(expected, Sequence) and list(expected) != found:
        raise ConfigError(
            f'model.img_encoder.neck.in_channels={list(expected)}, but the levels of the backbone have '
            f'{found} channels: set model.img_encoder.neck.in_channels={found}'
        )


def check_image_size(levels: Sequence[Shaped[Tensor, 'B _ _ _']], image_size: tuple[int, int]) -> None:
    """Check that the image size is a multiple of the coarsest stride.

    Args:
        levels: Levels of the neck, fine to coarse, each half the size of the previous one.
        image_size: H, W of the network's images, pixels.

    Raises:
        ConfigError: With the nearest valid size.
    """
    # the size of a level is rounded up where it does not divide evenly
    finest = max(
        math.ceil(size / cells) for size, cells in zip(image_size, levels[0].shape[-2:], strict=True)
    )
    stride = finest * 2 ** (len(levels) - 1)
    nearest = tuple(max(round(size / stride), 1) * stride for size in image_size)
    if nearest != image_size:
        raise ConfigError(
            f'image_size={image_size}: height and width must be multiples of {stride}, the coarsest stride '
            f'of img_encoder; the nearest size is image_size={nearest}'
        )
