"""From a stored image to the network's input in one resampling step.

Undistortion, resizing, cropping and flipping are composed into one lookup, so
every pixel is interpolated once. The lookup is computed from the lens formula
for the final pixels only: exact, and cheaper than sampling a stored table.
"""

from typing import NamedTuple

import cv2
import numpy as np

from ..calibration import CameraCalibration
from .augmentation import ImageAugmentation
from .classes import IGNORED_ID


class PixelMap(NamedTuple):
    """Position of each final pixel in the stored image.

    Attributes:
        x: (H', W') float32 columns, integers are pixel centers.
        y: (H', W') float32 rows.
    """

    x: np.ndarray
    y: np.ndarray


def distort_points(camera: CameraCalibration, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map undistorted pixels to pixels of the stored image.

    Brown-Conrady lens model. ``u`` (1, W) and ``v`` (H, 1) are broadcast
    against each other, so a row of columns and a column of rows give the whole
    image.

    Args:
        camera: Intrinsics and distortion.
        u: Undistorted columns.
        v: Undistorted rows.

    Returns:
        Columns and rows in the stored image, of the broadcast shape (or of the
        input shapes for a pinhole).
    """
    fx, fy, cx, cy = (u.dtype.type(value) for value in camera.intrinsics)
    raw_fx, raw_fy, raw_cx, raw_cy = (u.dtype.type(value) for value in camera.raw_intrinsics)
    x, y = (u - cx) / fx, (v - cy) / fy
    if camera.is_pinhole:
        return x * raw_fx + raw_cx, y * raw_fy + raw_cy
    k1, k2, p1, p2, k3 = (u.dtype.type(value) for value in camera.distortion)
    x_squared, y_squared = x * x, y * y
    r2 = x_squared + y_squared
    # Horner's scheme, in place: memory passes over the image dominate the cost.
    gain = r2 * k3
    for coefficient in (k2, k1):
        gain += coefficient
        gain *= r2
    gain += 1
    # The tangential terms: 2 p1 x y + p2 (r2 + 2 x^2), and x, y and p1, p2 swapped.
    distorted_x = gain * x
    distorted_x += x * (2 * p1 * y)
    distorted_x += (3 * p2) * x_squared
    distorted_x += p2 * y_squared
    gain *= y
    gain += x * (2 * p2 * y)
    gain += (3 * p1) * y_squared
    gain += p1 * x_squared
    distorted_x *= raw_fx
    distorted_x += raw_cx
    gain *= raw_fy
    gain += raw_cy
    return distorted_x, gain


def pixel_map(camera: CameraCalibration, augmentation: ImageAugmentation) -> PixelMap:
    """Compute the position of each final pixel in the stored image.

    Args:
        camera: Camera of the stored image.
        augmentation: Resize, crop and flip after undistortion.

    Returns:
        (H', W') float32 columns and rows.
    """
    scale_x, shift_x, scale_y, shift_y = augmentation.scale_and_shift()
    height, width = augmentation.final_size
    u = ((np.arange(width) - shift_x) / scale_x).astype(np.float32)[None, :]
    v = ((np.arange(height) - shift_y) / scale_y).astype(np.float32)[:, None]
    x, y = distort_points(camera, u, v)
    shape = (height, width)
    return PixelMap(
        np.ascontiguousarray(np.broadcast_to(x, shape)), np.ascontiguousarray(np.broadcast_to(y, shape))
    )


def warp_rgb(image: np.ndarray, positions: PixelMap) -> np.ndarray:
    """Sample a color image bilinearly, without antialiasing.

    Args:
        image: (H, W, 3) uint8.
        positions: Where to sample.

    Returns:
        (H', W', 3) uint8; 0 outside the stored image.
    """
    return cv2.remap(
        image, positions.x, positions.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )


def warp_depth_code(code: np.ndarray, positions: PixelMap) -> np.ndarray:
    """Sample depth codes at the nearest pixel, so that depths are never interpolated.

    Args:
        code: (H, W, 3) uint8 or (H, W) uint16.
        positions: Where to sample.

    Returns:
        (H', W', 3) or (H', W'), the same type; 0 (no depth) outside.
    """
    return cv2.remap(
        code, positions.x, positions.y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )


def warp_class_ids(class_ids: np.ndarray, positions: PixelMap) -> np.ndarray:
    """Sample class ids at the nearest pixel, so that no new ids appear.

    Args:
        class_ids: (H, W) uint8.
        positions: Where to sample.

    Returns:
        (H', W') uint8; 255 (ignored) outside.
    """
    return cv2.remap(
        class_ids,
        positions.x,
        positions.y,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=IGNORED_ID,
    )
