"""The debug picture of a frame: the teacher's masks in color beside some measurements."""

from typing import Any

import cv2
import numpy as np

ROAD_COLOR = (60, 60, 66)
ROUTE_COLOR = (140, 128, 60)
MARK_COLOR = (210, 90, 200)
VEHICLE_COLOR = (40, 110, 230)
PEDESTRIAN_COLOR = (0, 220, 220)
LIGHT_COLORS = {80: (0, 220, 0), 170: (240, 220, 0), 255: (255, 0, 0)}


def draw_bev(masks: np.ndarray, measurements: dict[str, Any], action: np.ndarray) -> np.ndarray:
    """Return the (192, 384, 3) uint8 RGB picture: masks on the left, text on the right.

    Args:
        masks: (15, 192, 192) uint8.
        measurements: Of the frame.
        action: (3,) throttle, steer, brake.
    """
    size = masks.shape[-1]
    picture = np.zeros((size, 2 * size, 3), dtype=np.uint8)
    view = picture[:, :size]
    view[masks[0] > 0] = ROAD_COLOR
    view[masks[1] > 0] = ROUTE_COLOR
    view[masks[2] > 0] = MARK_COLOR
    for value, color in LIGHT_COLORS.items():
        view[masks[14] == value] = color
    for step in range(4):
        fade = 0.4 + 0.2 * step
        view[masks[3 + step] > 0] = np.array(VEHICLE_COLOR) * fade
        view[masks[7 + step] > 0] = np.array(PEDESTRIAN_COLOR) * fade
    cv2.rectangle(view, (93, 139), (98, 163), (255, 255, 255), -1)
    lines = (
        f'speed {measurements["speed"]:.2f} m/s',
        f'throttle {action[0]:.2f}',
        f'steer {action[1]:+.2f}',
        f'brake {action[2]:.2f}',
        f'command {measurements["target_command"]}',
        f'north {measurements["x"]:.1f} m',
        f'east {measurements["y"]:.1f} m',
    )
    for place, text in enumerate(lines):
        origin = (size + 8, 20 + 22 * place)
        cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return picture
