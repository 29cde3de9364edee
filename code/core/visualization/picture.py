"""Picture of one sample: cameras, bird's-eye view, predicted and true plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from thinktwice.core.visualization import colors
from thinktwice.core.visualization.bev import draw_bev
from thinktwice.core.visualization.cameras import draw_cameras
from thinktwice.files import make_folder


def _legend(width: int, title: str) -> np.ndarray:
    image = np.full((44, width, 3), colors.BACKGROUND, np.uint8)
    cv2.putText(image, title, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colors.TEXT, 1, cv2.LINE_AA)
    entries = (
        ('true', colors.TRUE),
        ('predicted', colors.PREDICTED),
        ('coarse', colors.COARSE),
        ('target point', colors.TARGET),
    )
    for index, (name, color) in enumerate(entries):
        cv2.putText(image, name, (8 + 110 * index, 36), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
    return image


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join two images side by side; the left one is padded, or the right one resized to its height."""
    if left.shape[0] < right.shape[0]:
        padding = np.full((right.shape[0] - left.shape[0], left.shape[1], 3), colors.BACKGROUND, np.uint8)
        left = np.concatenate([left, padding])
    scale = left.shape[0] / right.shape[0]
    if scale != 1:
        right = cv2.resize(right, (round(right.shape[1] * scale), left.shape[0]))
    return np.concatenate([left, right], axis=1)


def draw_sample(
    sample: Mapping[str, Any], prediction: Mapping[str, Tensor], title: str | None = None
) -> np.ndarray:
    """Draw one sample.

    Args:
        sample: Sample of a dataset: ``inputs``, ``metas`` and optionally ``targets``.
        prediction: ``waypoints`` (K, 2) and optionally ``waypoints_stages`` (L + 1, K, 2), ego frame,
            meters.
        title: First line of the legend; None for the sample's name, speed and error.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    inputs, targets = sample['inputs'], sample.get('targets')
    if title is None:
        title = f'{sample["metas"]["sample_id"]}   {float(inputs["speed"]):.1f} m/s'
        if targets is not None:
            error = (prediction['waypoints'].cpu() - targets['waypoints'].cpu()).norm(dim=-1).mean()
            title += f'   ADE {float(error):.2f} m'
    picture = draw_bev(inputs, prediction, targets)
    if 'img' in inputs:
        picture = _beside(draw_cameras(inputs, prediction, targets), picture)
    return np.concatenate([_legend(picture.shape[1], title), picture])


def save_picture(image: np.ndarray, path: str | Path) -> None:
    """Write an RGB image as PNG.

    Args:
        image: (H, W, 3) uint8 RGB.
        path: File to write; its folder is created if necessary.

    Raises:
        OSError: The file can't be written.
    """
    path = Path(path)
    make_folder(path.parent)
    is_encoded, content = cv2.imencode('.png', image[..., ::-1])
    if not is_encoded:
        raise OSError(f'cannot encode {path}')
    path.write_bytes(content.tobytes())
