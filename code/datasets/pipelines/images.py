"""Load camera images, their matrices and their labels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.registry import TRANSFORMS

from ..calibration import Calibration, CameraCalibration
from ..labels import (
    IGNORED_ID,
    KEPT_IDS,
    decode_depth,
    read_class_ids,
    split_traffic_lights,
    training_class_names,
    training_id_table,
)
from ..pixels import SCALE_RANGE, ImageAugmentation, center_augmentation, draw_augmentation, pixel_map

Results = dict[str, Any]


@TRANSFORMS.register_module()
class LoadCameras:
    """Load all cameras of the queue; undistort, resize, crop and flip in one resampling step.

    Resize, crop and flip are drawn once per camera and shared by its frames and
    labels. Color is sampled bilinearly without antialiasing, labels at the
    nearest pixel. Labels are loaded for the key frame only.

    Args:
        image_size: height and width of the result, pixels.
        training: whether to draw random augmentation; otherwise the fixed resize and
            center crop.
        scale_range: range of the training scale, as multiples of the smallest
            scale that fills `image_size`; at least 1.
        flip_probability: probability of a left-right flip in training.
        with_labels: whether to load depth and classes (if the dataset has targets).
        kept_classes: simulator ids in the order of the training ids 1, 2, ...;
            all others become 0. Red and green lights come after the last.
        cameras: names of the cameras to use, in order; None for all cameras of the
            calibration. Files of other cameras are not read.

    Required Keys:
        - reader (RouteReader)
        - frames (list[int]): T frames, the key frame last
        - calibration (Calibration): the dataset's cameras
        - rng (np.random.Generator): used in training only
        - test_mode, with_targets (bool)

    Modified Keys:
        - calibration (Calibration): the N cameras that are used

    Added Keys:
        - img (np.ndarray): (T, N, 3, H, W) uint8 RGB, 0 outside the recorded image
        - intrinsics (np.ndarray): (T, N, 3, 3) float32, undistorted, before resizing
        - cam2ego (np.ndarray): (T, N, 4, 4) float32, to the ego frame of its own time
        - ida_mats (np.ndarray): (T, N, 4, 4) float32, undistorted to final pixel
        - depth (np.ndarray): (N, H, W) float32 meters, 0 = none; with labels
        - seg (np.ndarray): (N, H, W) uint8 training ids, 255 = ignore; with labels

    Raises:
        ValueError: if a size, range or probability is out of range.
        ConfigError: if `cameras` is not a list of distinct names, or the calibration lacks one of them.
        SampleReadError: in the call, if an image can't be read, its size differs from the calibration, or
            it has unknown class ids.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (448, 896),
        training: bool = False,
        scale_range: Sequence[float] = SCALE_RANGE,
        flip_probability: float = 0.5,
        with_labels: bool = True,
        kept_classes: Sequence[int] = KEPT_IDS,
        cameras: Sequence[str] | None = None,
    ) -> None:
        height, width = (int(size) for size in image_size)
        low, high = (float(scale) for scale in scale_range)
        if height < 1 or width < 1:
            raise ValueError(f'LoadCameras: image_size must be [height, width] >= 1, is {image_size}')
        if not 1.0 <= low <= high:
            raise ValueError(
                f'LoadCameras: scale_range must be [low, high] with 1 <= low <= high, is {scale_range}'
            )
        if not 0.0 <= flip_probability <= 1.0:
            raise ValueError(f'LoadCameras: flip_probability must be in [0, 1], is {flip_probability}')
        if cameras is not None and (
            isinstance(cameras, str) or not cameras or len(set(cameras)) < len(cameras)
        ):
            raise ConfigError(
                f"cameras={cameras!r} must be a list of distinct names, such as ['front', 'left'], or None "
                'for all cameras'
            )
        self.image_size = (height, width)
        self.training = training
        self.scale_range = (low, high)
        self.flip_probability = flip_probability
        self.with_labels = with_labels
        self.cameras = None if cameras is None else tuple(cameras)
        self._training_ids = training_id_table(kept_classes)
        self._kept_classes = kept_classes

    @property
    def class_names(self) -> list[str]:
        """Names of the training ids, background included."""
        return training_class_names(self._kept_classes)

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        calibration = self._choose_cameras(results)
        frames, num_cameras = results['frames'], len(calibration.cameras)
        reader = results['reader']
        augmentations = [self._augmentation(results) for _ in calibration.cameras]
        with_labels = self.with_labels and results['with_targets']
        img = np.empty((len(frames), num_cameras, 3, *self.image_size), np.uint8)
        depth = np.empty((num_cameras, *self.image_size), np.float32)
        seg = np.empty((num_cameras, *self.image_size), np.uint8)
        for n, (camera, augmentation) in enumerate(zip(calibration.cameras, augmentations, strict=True)):
            positions = pixel_map(camera, augmentation)
            for t, frame in enumerate(frames):
                rgb = reader.rgb(camera.rgb, frame, calibration.stored_size)
                img[t, n] = positions.sample(rgb, cv2.INTER_LINEAR).transpose(2, 0, 1)
            if with_labels:
                code = reader.depth_code(camera.depth, frames[-1], calibration.stored_size)
                depth[n] = decode_depth(positions.sample(code), camera.depth_offset)
                class_ids = read_class_ids(reader, camera.seg, frames[-1], calibration)
                if not calibration.lights_split:  # rgb is the key frame's, which is last
                    class_ids = split_traffic_lights(class_ids, rgb)
                seg[n] = cv2.LUT(positions.sample(class_ids, outside=IGNORED_ID), self._training_ids)
        results['img'] = img
        results.update(camera_matrices(calibration.cameras, augmentations, len(frames)))
        if with_labels:
            results['depth'], results['seg'] = depth, seg
        return results

    def _choose_cameras(self, results: Results) -> Calibration:
        """Reduce the rig to the cameras in use, for later steps too."""
        calibration: Calibration = results['calibration'].select(self.cameras)
        results['calibration'] = calibration
        return calibration

    def _augmentation(self, results: Results) -> ImageAugmentation:
        image_size = results['calibration'].image_size
        if self.training and not results['test_mode']:
            return draw_augmentation(
                results['rng'], image_size, self.image_size, self.scale_range, self.flip_probability
            )
        return center_augmentation(image_size, self.image_size)


def camera_matrices(
    cameras: Sequence[CameraCalibration], augmentations: Sequence[ImageAugmentation], num_frames: int
) -> dict[str, np.ndarray]:
    """Stack the matrices of N cameras, repeated for T frames.

    Returns:
        `intrinsics` (T, N, 3, 3), `cam2ego` and `ida_mats` (T, N, 4, 4), float32.
    """
    matrices = {
        'intrinsics': np.stack([camera.intrinsic_matrix for camera in cameras]),
        'cam2ego': np.stack([camera.cam2ego for camera in cameras]),
        'ida_mats': np.stack([augmentation.matrix() for augmentation in augmentations]),
    }
    return {key: np.stack([value.astype(np.float32)] * num_frames) for key, value in matrices.items()}
