"""Pipeline steps of the 2023 code (docs/reference_quirks, Q1, Q2, Q5 to Q10, Q13, Q17).

``configs/thinktwice_reference.py`` selects them for the official checkpoint.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinktwice.datasets.calibration import CameraCalibration
from thinktwice.datasets.labels import IGNORED_ID, decode_depth, split_traffic_lights
from thinktwice.datasets.pipelines.images import LoadCameras, camera_matrices
from thinktwice.datasets.pipelines.measurements import LoadMeasurements, LoadWaypoints
from thinktwice.datasets.pipelines.points import POINT_INTENSITY, POINT_XYZ, LoadPoints
from thinktwice.datasets.pixels import ImageAugmentation, distort_points, smallest_scale
from thinktwice.datasets.storage import RouteReader
from thinktwice.geometry import poses
from thinktwice.registry import TRANSFORMS

Results = dict[str, Any]

RED_HUES = ((150, 180),)


@dataclass(frozen=True)
class ReferenceAugmentation(ImageAugmentation):
    """Resize, crop and flip with the matrix of the 2023 code.

    Attributes:
        scale: Scale before the size was rounded to pixels.
    """

    scale: float = 1.0

    def matrix(self) -> np.ndarray:
        """Matrix (4, 4) that the 2023 code passed to the network for these images (Q10).

        It uses the scale before the size was rounded, ignores the half-pixel shifts, and flips
        around the wrong column: up to 1.2 pixels off.
        """
        matrix = np.diag([self.scale, self.scale, 1.0, 1.0])
        matrix[:2, 3] = -self.left, -self.top
        if self.flip:
            matrix[0, 0] = -self.scale
            matrix[0, 3] = self.final_size[1] + self.left
        return matrix


def reference_table(table: np.ndarray) -> np.ndarray:
    """Lookup table whose training ids count from 0 for the first kept class (Q5).

    The first class, building, is merged with the background, which is 0 too, and the last output
    of the segmentation head never has a target.

    Args:
        table: (256,) uint8 lookup table of the corrected code.
    """
    shifted = np.where(table > 0, table - 1, 0).astype(np.uint8)
    shifted[IGNORED_ID] = 0
    return shifted


@TRANSFORMS.register_module()
class ReferenceLoadCameras(LoadCameras):
    """Load cameras as the 2023 code did; arguments and keys as in :class:`LoadCameras`.

    Recorded images are undistorted at full size, then resized. Everything is interpolated twice,
    class ids and depths too (Q7), so that false classes and depths appear along every edge.
    Outside the recorded image the label is 0, which is also a class. The depth of the front camera
    is not corrected for the 0.2 m by which its camera was set back (Q8).

    ``img`` is uint8 in training, truncated (Q13: half a gray level too dark), and float32 in
    evaluation. In a packed dataset the traffic lights were already separated, by the corrected
    rule.
    """

    @property
    def class_names(self) -> list[str]:
        """Names of the training ids, the first class merged with the background."""
        return ['background', *super().class_names[2:]]

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class.

        Raises:
            SampleReadError: if an image can't be read or its size differs from the calibration.
            ConfigError: if the calibration lacks one of the cameras.
        """
        calibration = self._choose_cameras(results)
        frames, reader = results['frames'], results['reader']
        augmentations = [self._augmentation(results) for _ in calibration.cameras]
        with_labels = self.with_labels and results['with_targets']
        dtype = np.uint8 if self._draws(results) else np.float32
        img = np.empty((len(frames), len(augmentations), 3, *self.image_size), dtype)
        depth = np.empty((len(augmentations), *self.image_size), np.float32)
        seg = np.empty((len(augmentations), *self.image_size), np.uint8)
        for n, (camera, augmentation) in enumerate(zip(calibration.cameras, augmentations, strict=True)):
            grid = undistortion_grid(camera, calibration.image_size, calibration.stored_size)
            for t, frame in enumerate(frames):
                rgb = reader.rgb(camera.rgb, frame, calibration.stored_size)
                img[t, n] = blend(rgb, grid, augmentation)
            if with_labels:  # rgb is that of the key frame, which is last
                code = reader.depth_code(camera.depth, frames[-1], calibration.stored_size)
                depth[n] = blend(decode_depth(code), grid, augmentation)
                class_ids = reader.class_ids(camera.seg, frames[-1], calibration.stored_size)
                if not calibration.lights_split:
                    class_ids = split_traffic_lights(class_ids, rgb, RED_HUES)  # Q6
                training_ids = cv2.LUT(class_ids, reference_table(self._training_ids))
                seg[n] = blend(training_ids, grid, augmentation)
        results['img'] = img
        results.update(camera_matrices(calibration.cameras, augmentations, len(frames)))
        if with_labels:
            results['depth'], results['seg'] = depth, seg
        return results

    def _draws(self, results: Results) -> bool:
        return self.training and not results['test_mode']

    def _augmentation(self, results: Results) -> ReferenceAugmentation:
        image_size, (height, width) = results['calibration'].image_size, self.image_size
        scale, position, flip = smallest_scale(image_size, self.image_size), 0.5, False
        if self._draws(results):
            rng = results['rng']
            scale *= rng.uniform(*self.scale_range)
            position, flip = rng.uniform(), bool(rng.uniform() < self.flip_probability)
        # the small term prevents 0.56 * 900 from losing a pixel
        rows, columns = (int(size * scale + 1e-6) for size in image_size)
        return ReferenceAugmentation(
            image_size,
            (rows, columns),
            top=rows - height,
            left=int(position * (columns - width)),
            final_size=self.image_size,
            flip=flip,
            scale=scale,
        )


def undistortion_grid(
    camera: CameraCalibration, image_size: tuple[int, int], stored_size: tuple[int, int]
) -> Tensor:
    """Sampling positions of the 2023 code for each undistorted pixel: half a pixel off (Q9).

    For ``grid_sample``, -1 and 1 are the edges of the image, half a pixel beyond the outermost
    pixel centers; the positions were scaled as if pixel coordinates started at the edge.

    Args:
        camera: Camera of the recorded image.
        image_size: Height and width of the undistorted image.
        stored_size: Height and width of the recorded image.

    Returns:
        (1, H, W, 2) columns and rows, -1..1 inside the image.
    """
    height, width = image_size
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = distort_points(camera, u, v)
    return torch.from_numpy(np.stack((2 * x / stored_size[1] - 1, 2 * y / stored_size[0] - 1), -1))[None]


def blend(image: np.ndarray, grid: Tensor, augmentation: ImageAugmentation) -> np.ndarray:
    """Undistort, resize, crop and flip, interpolating bilinearly both times.

    Args:
        image: (H, W) or (H, W, 3), colors, meters or training ids.
        grid: Sampling positions from :func:`undistortion_grid`.
        augmentation: Resize, crop and flip after undistortion.

    Returns:
        (H', W') or (3, H', W') float32; 0 outside the recorded image.
    """
    pixels = torch.from_numpy(image.astype(np.float32))
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    undistorted = F.grid_sample(pixels[None], grid, padding_mode='zeros', align_corners=False)
    resized = F.interpolate(undistorted, augmentation.resized, mode='bilinear', align_corners=False)
    height, width = augmentation.final_size
    top, left = augmentation.top, augmentation.left
    cropped = resized[0, :, top : top + height, left : left + width]
    flipped = cropped.flip(-1) if augmentation.flip else cropped
    return (flipped if image.ndim == 3 else flipped[0]).numpy()


def read_pose_facing_north(reader: RouteReader, frame: int) -> tuple[dict[str, Any], np.ndarray]:
    """Read the measurements of a frame and its pose; a missing heading becomes north (Q17).

    North, a yaw of -90 degrees, is arbitrary: waypoints, target point and history of such a sample
    are rotated by the true heading of the vehicle.

    Args:
        reader: Reader of the route.
        frame: Frame number.

    Returns:
        The measurements and (3,) world x, y in meters and yaw in radians.

    Raises:
        SampleReadError: If the file can't be read.
    """
    values = reader.measurements(frame)
    theta = 0.0 if math.isnan(values['theta']) else values['theta']
    position = poses.north_east_to_world(values['x'], values['y'])
    return values, np.array([*position, poses.compass_to_yaw(theta)])


@TRANSFORMS.register_module()
class ReferenceLoadMeasurements(LoadMeasurements):
    """Load measurements as the 2023 code did; keys as in :class:`LoadMeasurements`."""

    read_pose = staticmethod(read_pose_facing_north)


@TRANSFORMS.register_module()
class ReferenceLoadWaypoints(LoadWaypoints):
    """Load waypoints as the 2023 code did; keys as in :class:`LoadWaypoints`."""

    read_pose = staticmethod(read_pose_facing_north)


def reference_relative_pose(history: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Matrix (4, 4) that the 2023 code used as the transform from history to key ego frame (Q1).

    The displacement from history to key, along the key heading as (forward, right), is used as
    the translation (-right, forward) and then rotated: its axes are swapped, its sign is wrong,
    and the rotation should use the other heading. Driving 3 m straight on
    moves history points 3 m to the right instead of 3 m back; over random pairs of poses the
    error is 8.5 m on average.

    Args:
        history: (3,) world x, y in meters and yaw in radians of the history frame.
        key: The same of the key frame.
    """
    displacement = key[: poses.POSE_YAW] - history[: poses.POSE_YAW]
    forward, right = poses.rotation_matrix(key[poses.POSE_YAW]).T @ displacement
    matrix = np.eye(4)
    matrix[:2, :2] = poses.rotation_matrix(history[poses.POSE_YAW] - key[poses.POSE_YAW])
    matrix[:2, 3] = matrix[:2, :2] @ (-right, forward)
    return matrix


@TRANSFORMS.register_module()
class ReferenceLoadPoints(LoadPoints):
    """Load the multi-sweep cloud as the 2023 code did; keys as in :class:`LoadPoints`."""

    def align(self, sweep: np.ndarray, history: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Transform a sweep by the wrong matrix, with the translation scaled by the intensity (Q1, Q2).

        The rows [x, y, z, intensity] were multiplied by the 4x4 matrix, so the intensity, 0.71
        to 1, took the place of the homogeneous 1.

        Args:
            sweep: (P, 4) x, y, z, intensity.
            history: (3,) pose of the sweep's frame.
            key: (3,) pose of the key frame.

        Returns:
            (P, 3).
        """
        matrix = reference_relative_pose(history, key)
        intensity = sweep[:, POINT_INTENSITY, None].astype(np.float64)
        return sweep[:, POINT_XYZ] @ matrix[:3, :3].T + intensity * matrix[:3, 3]
