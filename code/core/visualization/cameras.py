"""Camera images of one sample, with plans drawn on the ground."""

from collections.abc import Mapping

import cv2
import numpy as np
from torch import Tensor

from thinktwice.core.visualization import colors

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
        for (column, row), distance in zip(pixels * zoom, depth, strict=True):
            if distance > NEAREST_DEPTH and abs(column) < 1e5 and abs(row) < 1e5:
                cv2.circle(image, (round(column), round(row)), radius, color, -1, cv2.LINE_AA)


def draw_cameras(
    inputs: Mapping[str, Tensor],
    prediction: Mapping[str, Tensor],
    targets: Mapping[str, Tensor] | None = None,
    columns: int = 2,
    width: int = 448,
) -> np.ndarray:
    """Draw the key frame's cameras as a grid of images.

    Args:
        inputs: Inputs of one sample: ``img`` (T, N, 3, H, W) uint8, ``intrinsics``, ``cam2ego``,
            ``ida_mats``.
        prediction: ``waypoints`` (K, 2) ego frame, meters.
        targets: ``waypoints`` (K, 2), or None.
        columns: Number of columns.
        width: Width of one image, pixels.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    tiles = []
    plans = [(prediction['waypoints'], colors.PREDICTED)]
    if targets is not None:
        plans.insert(0, (targets['waypoints'], colors.TRUE))
    key_frame = inputs['img'][-1].cpu().numpy()
    zoom = width / key_frame.shape[-1]
    for index, channels in enumerate(key_frame):
        size = (width, round(channels.shape[1] * zoom))
        tile = cv2.resize(np.ascontiguousarray(channels.transpose(1, 2, 0)), size)
        camera = {key: inputs[key][-1, index].cpu().numpy() for key in ('intrinsics', 'cam2ego', 'ida_mats')}
        for waypoints, color in plans:
            draw_plan_on_image(tile, waypoints.cpu().numpy(), color, camera, zoom)
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], colors.BACKGROUND)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)
