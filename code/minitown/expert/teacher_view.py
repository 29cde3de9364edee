"""The teacher's BEV masks: road, route, lane markings, and actors and lights now and before.

192 x 192 pixels of 0.2 m; row 0 is farthest ahead of the ego, column 0 leftmost.
"""

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from thinktwice.geometry.poses import ego_to_world, world_to_ego
from thinktwice.minitown.world.classes import (
    GREEN,
    GROUND_BROKEN_LINE,
    GROUND_CROSSING,
    GROUND_ROAD,
    GROUND_SOLID_LINE,
    RED,
    YELLOW,
)
from thinktwice.minitown.world.scene import GroundMap

SIZE = 192
PIXELS_PER_METER = 5.0
PIXELS_AHEAD = 152.0
X_RANGE = ((PIXELS_AHEAD - SIZE) / PIXELS_PER_METER, PIXELS_AHEAD / PIXELS_PER_METER)
Y_RANGE = (-SIZE / 2 / PIXELS_PER_METER, SIZE / 2 / PIXELS_PER_METER)
"""What the view covers in the ego frame, meters."""
_SCALE = (SIZE - 1) / SIZE
HISTORY_TICKS = (-16, -11, -6, -1)
"""Snapshots drawn in the four masks of an actor type; -1 is the latest, one tick is 0.1 s."""
ACTOR_REACH = 39.0
MIN_HALF = 0.8
ROUTE_POINTS = 80
ROUTE_WIDTH = 16
STOP_LINE_WIDTH = 6
LIGHT_VALUES = {GREEN: 80, YELLOW: 170, RED: 255}
BROKEN_VALUE = 120

_ROAD_VALUES = np.zeros(256, dtype=np.uint8)
_ROAD_VALUES[[GROUND_ROAD, GROUND_SOLID_LINE, GROUND_BROKEN_LINE, GROUND_CROSSING]] = 255
_LINE_VALUES = np.zeros(256, dtype=np.uint8)
_LINE_VALUES[GROUND_SOLID_LINE] = 255
_LINE_VALUES[GROUND_BROKEN_LINE] = BROKEN_VALUE


def ego_to_view(points: np.ndarray) -> np.ndarray:
    """Transform ego points (..., 2) in meters to (column, row) of the view."""
    column = _SCALE * (PIXELS_PER_METER * points[..., 1] + SIZE / 2)
    row = _SCALE * (PIXELS_AHEAD - PIXELS_PER_METER * points[..., 0])
    return np.stack([column, row], axis=-1)


@dataclass(frozen=True)
class Snapshot:
    """Actors and lights at one tick, in the world frame.

    Attributes:
        vehicles: (V, 5) x, y, yaw, half length, half width, without the ego.
        pedestrians: (P, 5) the same.
        stop_lines: (L, 2, 2) ends of the stop lines that have a light.
        light_states: (L,) states of those lights.
    """

    vehicles: np.ndarray
    pedestrians: np.ndarray
    stop_lines: np.ndarray
    light_states: np.ndarray


class TeacherView:
    """Keeps the snapshots of the last 1.6 s and draws the masks."""

    def __init__(self, ground: GroundMap) -> None:
        self._ground = ground
        self._history: deque[Snapshot] = deque(maxlen=-HISTORY_TICKS[0])

    def remember(self, snapshot: Snapshot) -> None:
        """Add the snapshot of the next tick, 0.1 s after the last one."""
        self._history.append(snapshot)

    def masks(self, pose: tuple[float, float, float], route: np.ndarray) -> np.ndarray:
        """Return the (15, 192, 192) uint8 masks.

        They are road, route, lane markings, then vehicles, pedestrians and stop lines at four ticks each.

        Args:
            pose: World x, y in meters and yaw in radians of the ego at the last snapshot.
            route: (N, 2) world points of the route ahead.
        """
        masks = np.zeros((15, SIZE, SIZE), dtype=np.uint8)
        ground = self._ground_codes(pose)
        masks[0], masks[2] = _ROAD_VALUES[ground], _LINE_VALUES[ground]
        line = _fixed(ego_to_view(world_to_ego(route, pose)))
        cv2.polylines(masks[1], [line], False, 255, ROUTE_WIDTH, shift=_FIXED_BITS)
        for place, tick in enumerate(HISTORY_TICKS):
            if not self._history:
                break
            snapshot = self._history[max(len(self._history) + tick, 0)]
            _draw_actors(masks[3 + place], snapshot.vehicles, pose, 1.0)
            _draw_actors(masks[7 + place], snapshot.pedestrians, pose, 2.0)
            self._draw_lights(masks[11 + place], snapshot, pose)
        return masks

    def _ground_codes(self, pose: tuple[float, float, float]) -> np.ndarray:
        """Sample the ground map at the pixel centers of the view, nearest neighbor."""
        step = 1.0 / (_SCALE * PIXELS_PER_METER)
        view2ego = np.array(
            [
                [0.0, -step, X_RANGE[1]],
                [step, 0.0, Y_RANGE[0]],
                [0.0, 0.0, 1.0],
            ]
        )
        matrix = self._ground.ego2grid(pose) @ view2ego
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self._ground.codes, matrix, (SIZE, SIZE), flags=flags, borderValue=0)

    @staticmethod
    def _draw_lights(mask: np.ndarray, snapshot: Snapshot, pose: tuple[float, float, float]) -> None:
        lines = world_to_ego(snapshot.stop_lines, pose)
        near = np.hypot(*lines.mean(1).T) < ACTOR_REACH
        for line, state in zip(lines[near], snapshot.light_states[near], strict=True):
            ends = _fixed(ego_to_view(line))
            cv2.polylines(mask, [ends], False, LIGHT_VALUES[int(state)], STOP_LINE_WIDTH, shift=_FIXED_BITS)


_FIXED_BITS = 4


def _fixed(points: np.ndarray) -> np.ndarray:
    """Convert view coordinates to OpenCV's fixed-point integers."""
    return np.round(points * (1 << _FIXED_BITS)).astype(np.int32)


def _draw_actors(mask: np.ndarray, actors: np.ndarray, pose: tuple[float, float, float], grow: float) -> None:
    """Fill the boxes (N, 5) of actors within reach of the ego, enlarged by the factor `grow`."""
    centers = world_to_ego(actors[:, :2], pose)
    near = np.hypot(*centers.T) < ACTOR_REACH
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    for center, actor in zip(centers[near], actors[near], strict=True):
        half = np.maximum(actor[3:5] * grow, MIN_HALF)
        corners = ego_to_world(signs * half, (*center, actor[2] - pose[2]))
        cv2.fillPoly(mask, [_fixed(ego_to_view(corners))], 255, shift=_FIXED_BITS)
