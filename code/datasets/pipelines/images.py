"""Cameras: from stored images to the sample's pixels, matrices and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.registry import TRANSFORMS

from ..calibration import Calibration, CameraCalibration
from ..pixels import (
    KEPT_IDS,
    SCALE_RANGE,
    ImageAugmentation,
    PixelMap,
    centre_augmentation,
    check_class_ids,
    decode_depth,
    draw_augmentation,
    pixel_map,
    split_traffic_lights,
    to_training_ids,
    training_id_table,
    warp_class_ids,
    warp_depth_code,
    warp_rgb,
)
from ..storage import RouteReader, SampleReadError

Results = dict[str, Any]


@TRANSFORMS.register_module()
class LoadCameras:
    """Read all cameras of the queue; undistort, resize, crop and flip in one sampling.

    Resize, crop and flip are drawn once a camera and shared by its frames and
    its labels. Colour is sampled bilinearly without antialiasing, labels at the
    nearest pixel. Labels are read for the key frame alone.

    Args:
        image_size: height and width of the result, pixels.
        training: whether to draw; otherwise the fixed resize and centre crop.
        scale_range: range of the training scale, as multiples of the smallest
            scale that fills `image_size`; not below 1.
        flip_probability: of a left-right flip in training.
        with_labels: whether depth and classes are read (if the dataset has targets).
        kept_classes: simulator ids in the order of the training ids 1, 2, ...;
            all others become 0. Red and green lights follow after the last.
        cameras: names of the cameras used, in order; None for all of the calibration. No file
            of another camera is read.

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
        - depth (np.ndarray): (N, H, W) float32 metres, 0 = none; with labels
        - seg (np.ndarray): (N, H, W) uint8 training ids, 255 = ignore; with labels

    Raises:
        ValueError: if a size, a range, a probability or the list of cameras makes no sense.
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
                f"cameras={cameras!r} must be a list of different names, such as ['front', 'left'], or None "
                'for all cameras'
            )
        self.image_size = (height, width)
        self.training = training
        self.scale_range = (low, high)
        self.flip_probability = flip_probability
        self.with_labels = with_labels
        self.cameras = None if cameras is None else tuple(cameras)
        self._training_ids = training_id_table(kept_classes)

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class.

        Raises:
            SampleReadError: if an image can't be read, has another size than
                the calibration says, or holds unknown class ids.
            ConfigError: if the calibration lacks one of the cameras.
        """
        calibration = self._choose_cameras(results)
        frames, num_cameras = results['frames'], len(calibration.cameras)
        augmentations = [self._augmentation(results) for _ in calibration.cameras]
        with_labels = self.with_labels and results['with_targets']
        img = np.empty((len(frames), num_cameras, 3, *self.image_size), np.uint8)
        depth = np.empty((num_cameras, *self.image_size), np.float32)
        seg = np.empty((num_cameras, *self.image_size), np.uint8)
        for n, (camera, augmentation) in enumerate(zip(calibration.cameras, augmentations, strict=True)):
            positions = pixel_map(camera, augmentation)
            for t, frame in enumerate(frames):
                rgb = results['reader'].rgb(camera.rgb, frame, calibration.stored_size)
                img[t, n] = warp_rgb(rgb, positions).transpose(2, 0, 1)
            if with_labels:  # rgb is that of the key frame, which is last
                reader = results['reader']
                depth[n] = read_depth(reader, camera, frames[-1], calibration, positions)
                class_ids = read_class_ids(reader, camera, frames[-1], calibration, rgb)
                seg[n] = to_training_ids(warp_class_ids(class_ids, positions), self._training_ids)
        results['img'] = img
        results.update(camera_matrices(calibration.cameras, augmentations, len(frames)))
        if with_labels:
            results['depth'], results['seg'] = depth, seg
        return results

    def _choose_cameras(self, results: Results) -> Calibration:
        """The rig with the cameras that are used; later steps see it too."""
        calibration: Calibration = results['calibration'].select(self.cameras)
        results['calibration'] = calibration
        return calibration

    def _augmentation(self, results: Results) -> ImageAugmentation:
        image_size = results['calibration'].image_size
        if self.training and not results['test_mode']:
            return draw_augmentation(
                results['rng'], image_size, self.image_size, self.scale_range, self.flip_probability
            )
        return centre_augmentation(image_size, self.image_size)

    def __repr__(self) -> str:
        """Say the step with its settings, for logs."""
        return (
            f'{type(self).__name__}(image_size={self.image_size}, training={self.training}, '
            f'scale_range={self.scale_range}, flip_probability={self.flip_probability}, '
            f'with_labels={self.with_labels}, cameras={self.cameras})'
        )


def camera_matrices(
    cameras: Sequence[CameraCalibration], augmentations: Sequence[ImageAugmentation], num_frames: int
) -> dict[str, np.ndarray]:
    """Collect the matrices of all cameras; the same for every frame.

    Args:
        cameras: N cameras.
        augmentations: what was done to the images of each.
        num_frames: T.

    Returns:
        dict[str, np.ndarray]: `intrinsics` (T, N, 3, 3), `cam2ego` and
            `ida_mats` (T, N, 4, 4), float32.
    """
    matrices = {
        'intrinsics': np.stack([camera.intrinsic_matrix for camera in cameras]),
        'cam2ego': np.stack([camera.cam2ego for camera in cameras]),
        'ida_mats': np.stack([augmentation.matrix() for augmentation in augmentations]),
    }
    return {key: np.stack([value.astype(np.float32)] * num_frames) for key, value in matrices.items()}


def read_depth(
    reader: RouteReader, camera: CameraCalibration, frame: int, calibration: Calibration, positions: PixelMap
) -> np.ndarray:
    """Read the depth of one camera, decoded only where it is sampled.

    Args:
        reader: of the route.
        camera: the camera.
        frame: frame number.
        calibration: the rig, for the size of the files.
        positions: (H, W) where to sample.

    Returns:
        np.ndarray: (H, W) float32 metres, 0 = none.

    Raises:
        SampleReadError: if the file can't be read.
    """
    code = reader.depth_code(camera.depth, frame, calibration.stored_size)
    return decode_depth(warp_depth_code(code, positions), camera.depth_offset)


def read_class_ids(
    reader: RouteReader, camera: CameraCalibration, frame: int, calibration: Calibration, rgb: np.ndarray
) -> np.ndarray:
    """Read the class ids of one camera, with traffic lights told apart.

    Args:
        reader: of the route.
        camera: the camera.
        frame: frame number.
        calibration: the rig, for the size of the files.
        rgb: (H, W, 3) uint8 colour image of the same camera and frame.

    Returns:
        np.ndarray: (H, W) uint8, simulator ids with 24 = red and 25 = green light.

    Raises:
        SampleReadError: if the file can't be read or holds an unknown id.
    """
    class_ids = reader.class_ids(camera.seg, frame, calibration.stored_size)
    try:
        check_class_ids(class_ids, calibration.lights_split)
    except ValueError as error:
        raise SampleReadError(reader.path(camera.seg, frame), str(error)) from error
    if calibration.lights_split:
        return class_ids
    return split_traffic_lights(class_ids, rgb)
