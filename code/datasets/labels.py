"""Codes of the label images: depths, class ids, and the color of traffic lights.

The simulator ids are those of CARLA 0.9.10. Two more, 24 and 25, mark red and
green lights until the ids are mapped to training ids.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from .calibration import Calibration
from .storage import RouteReader, SampleReadError

METERS_PER_UNIT = 1000.0 / (256**3 - 1)
# Packed code: 16-bit, linear. Constant steps compress to half the size of inverse
# depth and are finer at 40 m, where supervision ends. 0 = no depth.
COMPACT_STEP = 1.0 / 64.0

IGNORED_ID = 255  # outside the recorded image: no loss
CLASS_NAMES = (
    *('unlabeled', 'building', 'fence', 'other', 'pedestrian', 'pole', 'road_line', 'road', 'sidewalk'),
    *('vegetation', 'vehicle', 'wall', 'traffic_sign', 'sky', 'ground', 'bridge', 'rail_track', 'guard_rail'),
    *('traffic_light', 'static', 'dynamic', 'water', 'terrain'),
)
"""Names of the recorded ids."""
LAST_RECORDED_ID = len(CLASS_NAMES) - 1
TRAFFIC_LIGHT_ID = 18
RED_LIGHT_ID = 24
GREEN_LIGHT_ID = 25
# building, pedestrian, pole, road line, road, sidewalk, vehicle, sign, light
KEPT_IDS = (1, 4, 5, 6, 7, 8, 10, 12, TRAFFIC_LIGHT_ID)

# Of images of CARLA's size; fewer in smaller ones, in proportion to their area.
RECORDED_PIXELS = 900 * 1600
MIN_LIGHT_PIXELS = 20
MIN_LIT_PIXELS = 3
MIN_LIT_VALUE = 140
SATURATION_FACTOR = 1.1
GREEN_HUES = ((70, 100),)  # OpenCV's hues, 0..179, both ends included
# Red wraps around 0. The 2023 code used only 150..180, so pure red lights stayed undecided.
RED_HUES = ((0, 10), (150, 180))


def training_id_table(kept_ids: Sequence[int] = KEPT_IDS) -> np.ndarray:
    """Build the lookup table from simulator ids (lights split) to training ids.

    Background is 0 and the kept ids count from 1; red and green lights come
    last. (The 2023 code counted from 0 and so merged building and background.)

    Returns:
        (256,) uint8 for ``cv2.LUT``; 255 stays 255.
    """
    table = np.zeros(256, np.uint8)
    for training_id, kept_id in enumerate(kept_ids, start=1):
        table[kept_id] = training_id
    if TRAFFIC_LIGHT_ID in kept_ids:
        table[RED_LIGHT_ID] = len(kept_ids) + 1
        table[GREEN_LIGHT_ID] = len(kept_ids) + 2
    table[IGNORED_ID] = IGNORED_ID
    return table


def training_class_names(kept_ids: Sequence[int] = KEPT_IDS) -> list[str]:
    """Names of the training ids of :func:`training_id_table`, in their order."""
    names = ['background', *(CLASS_NAMES[kept_id] for kept_id in kept_ids)]
    return names + (['red_light', 'green_light'] if TRAFFIC_LIGHT_ID in kept_ids else [])


def read_class_ids(reader: RouteReader, folder: str, frame: int, calibration: Calibration) -> np.ndarray:
    """Read the class ids of one camera as stored, (H, W) uint8 simulator ids.

    Raises:
        SampleReadError: if the file can't be read, or has an id that CARLA 0.9.10 does not have: it is
            damaged or from another version. Packed images may also have the ids of lights and 255.
    """
    class_ids = reader.class_ids(folder, frame, calibration.stored_size)
    highest, last = int(class_ids.max()), LAST_RECORDED_ID
    if calibration.lights_split:
        last = GREEN_LIGHT_ID
        if highest > last:
            highest = int(class_ids.max(where=class_ids != IGNORED_ID, initial=0))
    if highest > last:
        raise SampleReadError(
            reader.path(folder, frame),
            f'holds the class id {highest}; the recorded ids (of CARLA 0.9.10) end at {LAST_RECORDED_ID}',
        )
    return class_ids


def split_traffic_lights(
    class_ids: np.ndarray, rgb: np.ndarray, red_hues: Sequence[tuple[int, int]] = RED_HUES
) -> np.ndarray:
    """Separate red, green and undecided traffic lights by their color in the image.

    Each 8-connected component of at least ``MIN_LIGHT_PIXELS`` becomes red (24),
    green (25) or stays 18 (yellow or undecided); smaller ones become
    background. In images smaller than CARLA's these counts shrink with the area,
    but not below ``MIN_LIT_PIXELS`` and 1. Works on the recorded image, before any resampling. The cost is
    one pass over the ids plus the bounding boxes of the lights.

    Args:
        class_ids: (H, W) uint8, simulator ids; returned itself if no light is in view.
        rgb: (H, W, 3) uint8, the same camera and frame.
        red_hues: Ranges of hues that count as red, 0 to 179, both ends included.
    """
    mask = cv2.inRange(class_ids, TRAFFIC_LIGHT_ID, TRAFFIC_LIGHT_ID)
    boxes = list(_occupied_boxes(mask))
    if not boxes:
        return class_ids
    shrink = min(1.0, class_ids.size / RECORDED_PIXELS)
    min_pixels = max(MIN_LIT_PIXELS, round(shrink * MIN_LIGHT_PIXELS))
    min_lit = max(1, round(shrink * MIN_LIT_PIXELS))
    split = class_ids.copy()
    for rows, columns in boxes:
        count, components, stats, _ = cv2.connectedComponentsWithStats(mask[rows, columns], connectivity=8)
        for component in range(1, count):
            left, top, width, height, pixels = stats[component]
            inner = np.s_[top : top + height, left : left + width]
            selected = components[inner] == component
            color = rgb[rows, columns][inner]
            is_small = pixels < min_pixels
            light_id = 0 if is_small else _light_id(color, selected, min_lit, red_hues)
            split[rows, columns][inner][selected] = light_id
    return split


def _occupied_boxes(mask: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Split a mask into boxes separated by empty rows or columns."""
    for rows in _runs(np.asarray(mask.any(axis=1))):
        for columns in _runs(np.asarray(mask[rows].any(axis=0))):
            yield rows, columns


def _runs(occupied: np.ndarray) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(occupied, prepend=False, append=False))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield slice(int(start), int(stop))


def _light_id(
    rgb: np.ndarray, selected: np.ndarray, min_lit: int, red_hues: Sequence[tuple[int, int]]
) -> int:
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2HSV)[selected]
    hue, saturation, value = hsv.T
    lit = saturation >= int(SATURATION_FACTOR * int(saturation.mean()))
    lit &= value >= MIN_LIT_VALUE
    red, green = (
        sum(int(((hue >= low) & (hue <= high) & lit).sum()) for low, high in hues)
        for hues in (red_hues, GREEN_HUES)
    )
    if red < min_lit and green < min_lit:
        return TRAFFIC_LIGHT_ID
    return RED_LIGHT_ID if red >= green else GREEN_LIGHT_ID


def decode_depth(code: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Convert depth codes to meters along the optical axis.

    The recorded code is ``(R + 256 G + 65536 B) / (256^3 - 1) * 1000``; the
    integer stays below 2^24, so float32 represents it exactly. In both forms a
    code of zero means no depth.

    Args:
        code: (..., 3) uint8 in RGB order as recorded, or (...) uint16 as packed.
        offset: Offset to add, meters (``CameraCalibration.depth_offset``).

    Returns:
        (...) float32 meters; 0 where there is no depth.
    """
    if code.dtype == np.uint16:
        depth = code.astype(np.float32)
        depth *= np.float32(COMPACT_STEP)
    else:
        depth = code[..., 2].astype(np.float32)
        depth *= 256.0
        depth += code[..., 1]
        depth *= 256.0
        depth += code[..., 0]
        depth *= np.float32(METERS_PER_UNIT)
    if offset:
        valid = depth > 0
        depth += np.float32(offset)
        depth *= valid
        np.maximum(depth, 0, out=depth)
    return depth


def compact_depth(code: np.ndarray) -> np.ndarray:
    """Convert recorded depth codes, (..., 3) uint8, to the (...) uint16 form of packed datasets.

    The error is at most half a step, 7.8 mm, at any distance up to 1000 m.
    Depths below half a step become the smallest nonzero code.
    """
    depth = decode_depth(code)
    units = np.rint(depth / np.float32(COMPACT_STEP))
    return np.where(depth > 0, np.maximum(units, 1), 0).astype(np.uint16)
