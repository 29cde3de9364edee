"""Videos of drives: cameras, the town from above, the plan of each stage, controls and infractions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from thinktwice.closed_loop.environment import RouteRequest
from thinktwice.closed_loop.policies import AgentPolicy, Moment, Policy
from thinktwice.core.visualization import colors
from thinktwice.core.visualization.bev import BEVCanvas
from thinktwice.core.visualization.movie import Movie
from thinktwice.files import make_folder
from thinktwice.geometry.poses import ego_to_world, world_to_ego
from thinktwice.minitown.world.classes import GREEN, GROUND_COLORS, RED

HEIGHT = 480
VEHICLE = (110, 150, 220)
PEDESTRIAN = (230, 90, 200)
ROUTE = (80, 160, 100)
LIGHTS = {RED: (230, 50, 50), GREEN: (50, 200, 80)}
YELLOW_LIGHT = (235, 200, 60)
DARK_GROUND_COLORS = (0.6 * GROUND_COLORS).astype(np.uint8)
INFRACTION = (255, 80, 80)
SHOWN_SECONDS = 3.0
"""How long an infraction stays on the picture."""


class VideoWriter:
    """Writes one MP4 per route; see ``evaluation.Watcher``.

    Args:
        folder: of the videos.
        frequency: steps per second.
        shown: the routes that get a video.
        requests: the routes of the group.

    Raises:
        OSError: the folder or a file cannot be written.
    """

    def __init__(
        self, folder: Path, frequency: int, shown: Sequence[RouteRequest], requests: Sequence[RouteRequest]
    ) -> None:
        make_folder(folder)
        self._movies = {
            slot: Movie(folder / f'{request.name}.mp4', frequency)
            for slot, request in enumerate(requests)
            if request in shown
        }
        self._frequency = frequency
        self._shown: dict[int, tuple[str, int]] = {}

    def step(self, moment: Moment, policy: Policy, action: Any, info: dict[str, Any]) -> None:
        """Add a frame to the video of a route, if it gets one."""
        if moment.slot not in self._movies:
            return
        prediction = policy.predictions.get(moment.slot) if isinstance(policy, AgentPolicy) else None
        if info['infractions']:
            text = '; '.join(str(event) for event in info['infractions'])
            self._shown[moment.slot] = (text, round(SHOWN_SECONDS * self._frequency))
        text, left = self._shown.get(moment.slot, ('', 0))
        self._shown[moment.slot] = (text, left - 1)
        frame = draw_moment(moment, prediction, action, info['progress'], text if left > 0 else '')
        self._movies[moment.slot].write(frame)

    def close(self) -> None:
        """Finish the files."""
        for movie in self._movies.values():
            movie.close()


def draw_moment(
    moment: Moment, prediction: dict[str, Any] | None, action: Any, progress: float, infractions: str
) -> np.ndarray:
    """One frame of a video.

    Args:
        moment: the vehicle and what it observes.
        prediction: of the model for it, None if no model drives.
        action: (3,) throttle, steer, brake.
        progress: share of the route.
        infractions: text to show in red, may be empty.

    Returns:
        (H, W, 3) uint8 RGB, the same size for the same cameras.
    """
    parts = [_draw_cameras(moment)] if 'images' in moment.observation else []
    parts.append(_draw_from_above(moment, prediction))
    picture = np.concatenate(parts, axis=1)
    bar = np.full((64, picture.shape[1], 3), colors.BACKGROUND, np.uint8)
    speed = float(moment.observation['speed'][0])
    throttle, steer, brake = (float(value) for value in action)
    _write(bar, f'{speed:4.1f} m/s   throttle {throttle:.2f}   steer {steer:+.2f}   brake {brake:.2f}   '
                f'route {progress:4.0%}', 22, colors.TEXT)  # fmt: skip
    if infractions:
        _write(bar, infractions, 50, INFRACTION)
    else:
        entries = [('plan', colors.PREDICTED), ('coarse plan', colors.COARSE)] if prediction else []
        entries += [('route', ROUTE), ('vehicle', VEHICLE), ('pedestrian', PEDESTRIAN)]
        for index, (name, color) in enumerate(entries):
            _write(bar, name, 50, color, 10 + 115 * index)
    return np.concatenate([bar, picture])


def _write(image: np.ndarray, text: str, row: int, color: tuple[int, int, int], column: int = 10) -> None:
    cv2.putText(image, text, (column, row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)


def _draw_cameras(moment: Moment) -> np.ndarray:
    """Cameras in two columns, named, (HEIGHT, W, 3)."""
    images = moment.observation['images']
    height = HEIGHT // -(-len(images) // 2)
    tiles = []
    for name, image in images.items():
        tile = cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height))
        _write(tile, name, 18, colors.TEXT)
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], colors.BACKGROUND)] * (len(tiles) % 2)
    rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in range(0, len(tiles), 2)]
    picture = np.concatenate(rows)
    padding = np.full((HEIGHT - len(picture), picture.shape[1], 3), colors.BACKGROUND, np.uint8)
    return np.concatenate([picture, padding])


def _draw_from_above(moment: Moment, prediction: dict[str, Any] | None) -> np.ndarray:
    """The town around the vehicle, (HEIGHT, HEIGHT, 3)."""
    drive = moment.env.drive
    canvas = BEVCanvas((-10.0, 30.0), (-20.0, 20.0), HEIGHT / 40.0)
    pose, ground = drive.ego.pose, drive.town.ground
    cell, (x_end, y_start) = 1 / canvas.scale, (canvas.x_range[1], canvas.y_range[0])
    # column, row and 1 of a pixel to x (ahead), y (right) and 1
    pixel2ego = [[0, -cell, x_end - cell / 2], [cell, 0, y_start + cell / 2], [0, 0, 1]]
    pixel2grid = ground.ego2grid(pose) @ pixel2ego
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    codes = cv2.warpAffine(ground.codes, pixel2grid, canvas.image.shape[1::-1], flags=flags)
    canvas.image[:] = DARK_GROUND_COLORS[codes]
    canvas.draw_line(world_to_ego(drive.route.ahead(drive.along, 40), pose), ROUTE, 6)
    snapshot = drive.snapshot()
    for line, state in zip(snapshot.stop_lines, snapshot.light_states.tolist(), strict=True):
        canvas.draw_line(world_to_ego(line, pose), LIGHTS.get(state, YELLOW_LIGHT), 3)
    for boxes, color in ((snapshot.vehicles, VEHICLE), (snapshot.pedestrians, PEDESTRIAN)):
        for box in boxes:
            if np.hypot(box[0] - pose[0], box[1] - pose[1]) < 45.0:
                _fill(canvas, world_to_ego(_corners(box), pose), color)
    canvas.draw_ego()
    if prediction is not None:
        if 'waypoints_stages' in prediction:
            for stage in prediction['waypoints_stages'][:-1].cpu().numpy():
                canvas.draw_plan(stage, colors.COARSE, thickness=1)
        canvas.draw_plan(prediction['waypoints'].cpu().numpy(), colors.PREDICTED)
    return canvas.image


def _corners(box: np.ndarray) -> np.ndarray:
    """(4, 2) world corners of a box (x, y, yaw, half length, half width)."""
    return ego_to_world(box[3:5] * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]), box[:3])


def _fill(canvas: BEVCanvas, positions: np.ndarray, color: tuple[int, int, int]) -> None:
    cv2.fillPoly(canvas.image, [canvas.to_pixels(positions).round().astype(np.int32)], color, cv2.LINE_AA)
