"""Pictures of the network's inputs and labels: projected points, depth, classes, waypoints."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from thinktwice.core.visualization import colors
from thinktwice.core.visualization.bev import BEVCanvas
from thinktwice.core.visualization.cameras import NEAREST_DEPTH, project

DEPTH_LIMIT = 60.0
"""Meters: upper end of the color scale of depth."""

COMMANDS = ('left', 'right', 'straight', 'follow lane', 'change left', 'change right')
CLASS_COLORS = (
    *((30, 30, 34), (110, 80, 60), (235, 60, 90), (170, 170, 170), (245, 245, 245), (90, 75, 110)),
    *((210, 120, 200), (60, 110, 230), (240, 220, 60), (250, 160, 40), (255, 40, 30), (50, 230, 110)),
)
"""RGB by training id: background, building, pedestrian, pole, road line, road, sidewalk, vehicle,
sign, light (undecided, red, green)."""
OUTSIDE_COLOR = (0, 0, 0)


def color_depths(depth: np.ndarray) -> np.ndarray:
    """Color depths (...) in meters, near red, far blue, none black: (..., 3) uint8 RGB."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    nearness = 1 - np.sqrt(np.clip(depth / DEPTH_LIMIT, 0, 1))
    rgb = table[(nearness * 255).astype(np.uint8)]
    return np.where((depth > 0)[..., None], rgb, OUTSIDE_COLOR).astype(np.uint8)


def color_classes(class_ids: np.ndarray) -> np.ndarray:
    """Color training ids (...) uint8, black where ignored (255): (..., 3) uint8 RGB."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(CLASS_COLORS)] = CLASS_COLORS
    table[len(CLASS_COLORS) : 255] = (255, 0, 255)
    return table[class_ids]


def draw_points_on_image(
    image: np.ndarray, points: np.ndarray, camera: Mapping[str, np.ndarray], zoom: float
) -> None:
    """Draw a sweep into a camera image, colored by depth, in place; near points on top.

    Args:
        image: (H, W, 3) uint8, the final image enlarged `zoom` times.
        points: (P, 3 or more) ego frame, meters.
        camera: `intrinsics`, `cam2ego` and `ida_mats` of this camera.
        zoom: Scale of `image` relative to the final image.
    """
    pixels, depth = project(points[:, :3], camera['intrinsics'], camera['cam2ego'], camera['ida_mats'])
    # integers are pixel centers, so enlarging also shifts by the half pixel
    places = np.rint((pixels + 0.5) * zoom - 0.5)
    height, width = image.shape[:2]
    visible = (depth > NEAREST_DEPTH) & (places >= 0).all(axis=1)
    visible &= (places[:, 0] < width) & (places[:, 1] < height)
    order = np.argsort(-depth[visible])
    columns, rows = places[visible][order].astype(int).T
    image[rows, columns] = color_depths(depth[visible][order])


def camera_of(inputs: Mapping[str, Tensor], frame: int, index: int) -> dict[str, np.ndarray]:
    """``intrinsics`` (3, 3), ``cam2ego`` and ``ida_mats`` (4, 4) of one camera of one frame of the queue."""
    keys = ('intrinsics', 'cam2ego', 'ida_mats')
    return {key: inputs[key][frame, index].double().cpu().numpy() for key in keys}


def camera_row(sample: Mapping[str, Any], width: int, img: Tensor | None = None) -> np.ndarray:
    """Draw the cameras of the key frame side by side, with the key sweep projected into them.

    Args:
        sample: Sample of a dataset.
        width: Width of one camera, pixels.
        img: (T, N, 3, H, W) to draw instead of the sample's, 0..255.

    Returns:
        (H', N * width, 3) uint8 RGB.
    """
    inputs = sample['inputs']
    images = (inputs['img'] if img is None else img)[-1].clamp(0, 255).byte().cpu().numpy()
    points = inputs['points'].double().cpu().numpy()
    key_points = points[points[:, 4] == 0]
    tiles = []
    for index, channels in enumerate(images):
        zoom = width / channels.shape[-1]
        tile = resized(channels.transpose(1, 2, 0), width)
        draw_points_on_image(tile, key_points, camera_of(inputs, -1, index), zoom)
        tiles.append(tile)
    return np.concatenate(tiles, axis=1)


def label_rows(sample: Mapping[str, Any], width: int) -> list[np.ndarray]:
    """Draw the depth and class labels of the cameras, a row (H', N * width, 3) each; none without labels."""
    targets = sample.get('targets') or {}
    rows = []
    for key, paint in (('depth', color_depths), ('seg', color_classes)):
        if key in targets:
            images = [resized(paint(image.cpu().numpy()), width, cv2.INTER_NEAREST) for image in targets[key]]
            rows.append(np.concatenate(images, axis=1))
    return rows


def route_picture(sample: Mapping[str, Any]) -> np.ndarray:
    """Draw the bird's-eye view, (H, W, 3): sweeps of the queue, waypoints, target point."""
    canvas = BEVCanvas()
    points = sample['inputs']['points'].cpu().numpy()
    canvas.draw_points(points[points[:, 4] < 0], colors.GRID)
    canvas.draw_points(points[points[:, 4] == 0])
    canvas.draw_ego()
    canvas.draw_target(sample['inputs']['target_point'].cpu().numpy())
    if 'waypoints' in (sample.get('targets') or {}):
        canvas.draw_plan(sample['targets']['waypoints'].cpu().numpy(), colors.TRUE)
    return canvas.image


def caption(text: str, width: int) -> np.ndarray:
    """Draw a line of ASCII text as a strip (22, width, 3)."""
    strip = np.full((22, width, 3), colors.BACKGROUND, np.uint8)
    return cv2.putText(strip, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colors.TEXT, 1, cv2.LINE_AA)


def describe_sample(sample: Mapping[str, Any]) -> str:
    """Describe a sample in one line: name and, where it has them, speed, command and target point."""
    inputs = sample['inputs']
    parts = [sample['metas']['sample_id']]
    if 'speed' in inputs:
        parts.append(f'{float(inputs["speed"]):.1f} m/s')
    if 'command' in inputs:
        number = int(inputs['command'])
        parts.append(f'command: {COMMANDS[number] if number < len(COMMANDS) else number}')
    if 'target_point' in inputs:
        ahead, right = inputs['target_point'].tolist()
        side = 'right' if right >= 0 else 'left'
        parts.append(f'target: {ahead:.1f} m ahead, {abs(right):.1f} m {side}')
    return '   '.join(parts)


def browse_picture(
    before: Mapping[str, Any], after: Mapping[str, Any], img: Tensor | None = None, width: int = 400
) -> np.ndarray:
    """Draw one sample before and after augmentation.

    Args:
        before: The sample with whole undistorted images.
        after: The sample as passed to the network.
        img: (T, N, 3, H, W) to draw instead of `after`'s images, 0..255.
        width: Width of one camera, pixels.

    Returns:
        (H, W, 3) uint8 RGB: for each of the two, a row of cameras with points, a row of depths and a
        row of classes; the bird's-eye view on the right.
    """
    blocks = []
    for title, sample, shown in (('before', before, None), ('after', after, img)):
        size = tuple(sample['inputs']['img'].shape[-2:])
        rows = [camera_row(sample, width, shown), *label_rows(sample, width)]
        text = f'{title} augmentation, {size[0]}x{size[1]}: points over color, depth (red near), classes'
        blocks += [caption(text, rows[0].shape[1]), *rows]
    left = np.concatenate(blocks)
    bev = route_picture(after)
    bev = np.concatenate([caption('points (older dark), waypoints, target', bev.shape[1]), bev])
    height = max(len(left), len(bev))
    picture = np.concatenate([_padded(left, height), _padded(bev, height)], axis=1)
    return np.concatenate([caption(describe_sample(after), picture.shape[1]), picture])


def _padded(image: np.ndarray, height: int) -> np.ndarray:
    missing = height - len(image)
    return cv2.copyMakeBorder(image, 0, missing, 0, 0, cv2.BORDER_CONSTANT, value=colors.BACKGROUND)


def resized(image: np.ndarray, width: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """Scale an image (H, W, 3) to a width, in pixels, and keep its shape."""
    height = round(image.shape[0] * width / image.shape[1])
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
