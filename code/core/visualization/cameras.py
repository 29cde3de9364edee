"""Drawing into camera images: plans on the ground, attention."""

from collections.abc import Mapping

import cv2
import numpy as np

NEAREST_DEPTH = 0.5
"""Meters: points nearer to the camera plane are not drawn."""


def project(
    positions: np.ndarray, intrinsics: np.ndarray, cam2ego: np.ndarray, ida_mat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project ego positions into an augmented image.

    Args:
        positions: (P, 3) ego frame, meters.
        intrinsics: (3, 3) intrinsics before augmentation, pixels.
        cam2ego: (4, 4) camera pose.
        ida_mat: (4, 4) image augmentation, original to final pixel.

    Returns:
        (P, 2) final column and row, (P,) depth in meters.
    """
    homogeneous = np.concatenate([positions, np.ones((len(positions), 1))], axis=1)
    camera = (np.linalg.inv(cam2ego) @ homogeneous.T)[:3]
    depth = camera[2]
    pixels = intrinsics @ (camera / np.where(np.abs(depth) < 1e-6, 1e-6, depth))
    final = ida_mat[:2, :2] @ pixels[:2] + ida_mat[:2, 3:]
    return final.T, depth


def draw_plan_on_image(
    image: np.ndarray,
    waypoints: np.ndarray,
    color: tuple[int, int, int],
    camera: Mapping[str, np.ndarray],
    zoom: float,
) -> None:
    """Draw a plan on the ground plane into a camera image, in place.

    Args:
        image: (H, W, 3) uint8, the final image enlarged ``zoom`` times.
        waypoints: (K, 2) ego frame, meters.
        color: RGB.
        camera: ``intrinsics``, ``cam2ego`` and ``ida_mats`` of this camera.
        zoom: Scale of `image` relative to the final image.
    """
    # interpolated densely, since a line on the ground may partly leave the view
    corners = np.concatenate([np.zeros((1, 2)), waypoints])
    steps = np.linspace(0, len(corners) - 1, 8 * len(corners))
    dense = np.stack([np.interp(steps, range(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1)
    for positions, radius in ((dense, 1), (waypoints, 4)):
        ground = np.concatenate([positions, np.zeros((len(positions), 1))], axis=1)
        pixels, depth = project(ground, camera['intrinsics'], camera['cam2ego'], camera['ida_mats'])
        # integers are pixel centers, so enlarging also shifts by the half pixel
        for (column, row), distance in zip((pixels + 0.5) * zoom - 0.5, depth, strict=True):
            if distance > NEAREST_DEPTH and abs(column) < 1e5 and abs(row) < 1e5:
                cv2.circle(image, (round(column), round(row)), radius, color, -1, cv2.LINE_AA)


def draw_attention(
    image: np.ndarray, locations: np.ndarray, weights: np.ndarray, largest: float
) -> np.ndarray:
    """Show how much of the attention falls on each part of an image.

    Args:
        image: (H, W, 3) uint8.
        locations: (P, 2) x / W, y / H of the sampling points; those outside are left out.
        weights: (P,) attention weights.
        largest: Attention per pixel that is shown brightest.

    Returns:
        (H, W, 3) uint8 RGB: the image in dark gray, bright colors where the attention is.
    """
    # the root shows weak attention too
    share = np.sqrt(np.clip(attention_per_pixel(image.shape[:2], locations, weights) / largest, 0, 1))
    bright = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = image.mean(axis=2, keepdims=True) * 0.6
    opacity = np.minimum(1.5 * share, 0.9)[..., None]
    return (gray * (1 - opacity) + bright * opacity).astype(np.uint8)


def attention_per_pixel(size: tuple[int, int], locations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of the weights at each pixel (H, W), smoothed over a hundredth of the width."""
    height, width = size
    columns, rows = np.floor(locations * (width, height)).astype(int).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = rows[inside] * width + columns[inside]
    total = np.bincount(places, weights[inside], minlength=height * width).reshape(height, width)
    return cv2.GaussianBlur(total, (0, 0), sigmaX=max(width / 100, 0.5))
