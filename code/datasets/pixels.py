"""From a stored image to the network's input in one resampling step.

Undistortion, resizing, cropping and flipping ("image data augmentation", ida) are composed into one lookup,
so every pixel is interpolated once. The lookup is computed from the lens formula for the final pixels only:
exact, and cheaper than sampling a stored table.

Sizes are (height, width) in pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .calibration import CameraCalibration

# 0.6255 / 0.56 of the paper's configuration: the range of the training scale as
# a multiple of the smallest scale that fills the final image.
SCALE_RANGE = (1.0, 0.6255 / 0.56)


@dataclass(frozen=True)
class ImageAugmentation:
    """Resize to ``resized``, crop to ``final_size`` from row ``top`` and column ``left``, then flip."""

    image_size: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    final_size: tuple[int, int]
    flip: bool

    def scale_and_shift(self) -> tuple[float, float, float, float]:
        """Map from input pixels to output pixels, as scale and shift per axis.

        Integers are pixel centers. (The 2023 code ignored the rounding of the
        size and the half-pixel shifts, and flipped around the wrong column: up
        to 1.2 pixels off.)

        Returns:
            ``s_x, t_x, s_y, t_y`` with u' = s_x u + t_x and v' = s_y v + t_y.
        """
        scale_y, scale_x = (r / i for r, i in zip(self.resized, self.image_size, strict=True))
        shift_x = 0.5 * scale_x - 0.5 - self.left
        shift_y = 0.5 * scale_y - 0.5 - self.top
        if self.flip:
            scale_x, shift_x = -scale_x, self.final_size[1] - 1 - shift_x
        return scale_x, shift_x, scale_y, shift_y

    def matrix(self) -> np.ndarray:
        """The same map as a (4, 4) float64 matrix acting on (u, v, any, 1)."""
        scale_x, shift_x, scale_y, shift_y = self.scale_and_shift()
        matrix = np.diag([scale_x, scale_y, 1.0, 1.0])
        matrix[:2, 3] = shift_x, shift_y
        return matrix


def smallest_scale(image_size: tuple[int, int], final_size: tuple[int, int]) -> float:
    """Smallest scale at which the resized image covers the final one: max(H'/H, W'/W)."""
    return max(final / before for final, before in zip(final_size, image_size, strict=True))


def _resized(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    # The small term prevents 0.29 * 100 = 28.999... from losing a pixel.
    height, width = (int(size * scale + 1e-6) for size in image_size)
    return height, width


def center_augmentation(image_size: tuple[int, int], final_size: tuple[int, int]) -> ImageAugmentation:
    """The fixed resize and crop of evaluation: bottom edge kept, centered, no flip."""
    resized = _resized(image_size, smallest_scale(image_size, final_size))
    top, left = resized[0] - final_size[0], int((resized[1] - final_size[1]) / 2)
    return ImageAugmentation(image_size, resized, top, left, final_size, flip=False)


def draw_augmentation(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    final_size: tuple[int, int],
    scale_range: tuple[float, float] = SCALE_RANGE,
    flip_probability: float = 0.5,
) -> ImageAugmentation:
    """Draw the resize, crop and flip of one camera in training; the bottom edge is kept.

    Always draws exactly three numbers. ``scale_range`` has multiples of :func:`smallest_scale`, at least 1.
    """
    base = smallest_scale(image_size, final_size)
    scale, position, coin = rng.uniform(*scale_range), rng.uniform(), rng.uniform()
    resized = _resized(image_size, base * scale)
    return ImageAugmentation(
        image_size,
        resized,
        top=resized[0] - final_size[0],
        left=int(position * (resized[1] - final_size[1])),
        final_size=final_size,
        flip=bool(coin < flip_probability),
    )


class PixelMap(NamedTuple):
    """Position of each final pixel in the stored image.

    Attributes:
        x: (H', W') float32 columns, integers are pixel centers.
        y: (H', W') float32 rows.
    """

    x: np.ndarray
    y: np.ndarray

    def sample(
        self, image: np.ndarray, interpolation: int = cv2.INTER_NEAREST, outside: int = 0
    ) -> np.ndarray:
        """Sample an (H, W, 3) or (H, W) image, uint8 or uint16, without antialiasing.

        Labels and depth codes need the nearest pixel: no new value may appear. ``interpolation`` is one of
        OpenCV's, ``outside`` the value outside the stored image.
        """
        return cv2.remap(
            image, self.x, self.y, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
        )


def distort_points(camera: CameraCalibration, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map undistorted columns ``u`` and rows ``v`` to those of the stored image (Brown-Conrady lens model).

    Both are broadcast against each other, so (1, W) and (H, 1) give the whole image; for a pinhole the
    results keep the shapes of the inputs.
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
    """Compute the position of each final pixel in the stored image."""
    scale_x, shift_x, scale_y, shift_y = augmentation.scale_and_shift()
    height, width = augmentation.final_size
    u = ((np.arange(width) - shift_x) / scale_x).astype(np.float32)[None, :]
    v = ((np.arange(height) - shift_y) / scale_y).astype(np.float32)[:, None]
    x, y = distort_points(camera, u, v)
    shape = (height, width)
    return PixelMap(
        np.ascontiguousarray(np.broadcast_to(x, shape)), np.ascontiguousarray(np.broadcast_to(y, shape))
    )
