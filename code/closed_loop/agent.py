"""The agent that drives: from what a vehicle senses to throttle, steer and brake.

Data specification, section 7. Samples are made by the dataset's own pipeline, so that the model sees in
closed loop what it saw in training.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thinktwice.closed_loop.controllers import BetaController, Controller, Prediction
from thinktwice.closed_loop.gnss import SmoothedPosition
from thinktwice.datasets.calibration import Calibration
from thinktwice.datasets.pipelines import run_pipeline
from thinktwice.datasets.storage import RouteReader, SampleReadError
from thinktwice.geometry import poses
from thinktwice.geometry.route_planner import RouteNode, RoutePlanner, downsample_route
from thinktwice.model_code.control import VehicleControl

MIN_TARGET_DISTANCE = 4.0
MAX_TARGET_DISTANCE = 50.0
"""Distances of the route planner in meters: nodes nearer count as reached; how far along it looks."""


@dataclass(frozen=True)
class SensorData:
    """Sensor readings of one tick.

    Attributes:
        images: (H, W, 3) uint8 RGB by camera name, of the size that the calibration calls stored.
        points: (P, 4) float32 x, y, z in ego meters and intensity; a full sweep, or half of one.
        position: (north, east) in meters.
        compass: heading in radians, clockwise from north; NaN where the compass gives none.
        speed: m/s.
    """

    images: Mapping[str, np.ndarray]
    points: np.ndarray
    position: tuple[float, float]
    compass: float
    speed: float


class DrivingAgent:
    """Keeps the recent sensor history of a vehicle and turns the model's predictions into controls.

    ``step`` does a whole tick. For several vehicles in one batch call ``observe`` of each, predict the
    samples together, then call ``act`` of each.

    There is no sample, and the control is zero, until the history is long enough and the compass has given
    a heading. A later NaN of the compass, or a missing image, is replaced by the last value; a camera that
    never gave an image is black.

    Args:
        predict: gives one prediction per sample, for example ``functools.partial(apis.predict, model)``.
        pipeline: steps of the dataset's test pipeline, built, ending with ``PackSample``.
        calibration: of the vehicle's cameras.
        tick_seconds: time between two ticks.
        num_frames: frames per sample, spaced as in the calibration.
        controller: makes a control of a prediction.
        half_sweeps: whether ``SensorData.points`` is half a sweep, to be joined with the half before.
        smooth_position: whether to average the position over the last ticks, as noisy GNSS needs it.

    Attributes:
        history_length: ticks that a sample spans.

    Raises:
        ValueError: if a frame interval is not a whole number of ticks.
    """

    def __init__(
        self,
        predict: Callable[[list[Any]], list[Prediction]],
        pipeline: Sequence[Callable[[dict[str, Any]], dict[str, Any]]],
        calibration: Calibration,
        tick_seconds: float,
        num_frames: int = 2,
        controller: Controller | None = None,
        half_sweeps: bool = False,
        smooth_position: bool = False,
    ) -> None:
        spacing = calibration.frame_interval / tick_seconds
        if spacing < 1 or abs(spacing - round(spacing)) > 1e-6:
            raise ValueError(
                f'tick_seconds={tick_seconds} must divide the {calibration.frame_interval} s between frames'
            )
        self.predict = predict
        self.pipeline = list(pipeline)
        self.calibration = calibration
        self.tick_seconds = tick_seconds
        self.controller = controller or BetaController()
        self.half_sweeps = half_sweeps
        self.smooth_position = smooth_position
        self._spacing, self._num_frames = round(spacing), num_frames
        self.history_length = (num_frames - 1) * self._spacing + 1
        self._planner: RoutePlanner | None = None

    def reset(self, route: Sequence[RouteNode]) -> None:
        """Begin a drive.

        Args:
            route: dense or sparse nodes, from where the vehicle stands.

        Raises:
            ValueError: if the route has no node.
        """
        self._planner = RoutePlanner(downsample_route(list(route)), MIN_TARGET_DISTANCE, MAX_TARGET_DISTANCE)
        self._history: deque[_Tick] = deque(maxlen=self.history_length)
        self._gnss = SmoothedPosition(self.tick_seconds)
        self._last: SensorData | None = None
        self._half_sweep: tuple[np.ndarray, np.ndarray] | None = None
        self.controller.reset()

    def step(self, data: SensorData) -> VehicleControl:
        """Control of one tick; see the class."""
        sample = self.observe(data)
        return self.act(None if sample is None else self.predict([sample])[0])

    def observe(self, data: SensorData) -> Any | None:
        """Take in a tick.

        Returns:
            The sample to predict, as the pipeline makes it; None while there is none yet.

        Raises:
            RuntimeError: before the first ``reset``.
        """
        if self._planner is None:
            raise RuntimeError('reset(route) has to be called before the first tick')
        data = self._completed(data)
        self._last = data
        if math.isnan(data.compass):
            return None
        position = np.asarray(data.position, dtype=np.float64)
        if self.smooth_position:
            position = self._gnss.update(position)
        target = self._planner.step(*position.tolist())
        pose = np.array([*poses.north_east_to_world(*position), poses.compass_to_yaw(data.compass)])
        points = self._joined_sweep(data.points, pose) if self.half_sweeps else data.points
        self._history.append(_Tick(replace(data, points=points), position, target))
        if len(self._history) < self.history_length:
            return None
        return self._sample()

    def act(self, prediction: Prediction | None) -> VehicleControl:
        """The control for the tick that ``observe`` took in last.

        Args:
            prediction: for its sample; None if there was none.
        """
        control = VehicleControl(0.0, 0.0, 0.0)
        if prediction is not None:
            assert self._last is not None
            control = self.controller.step(prediction, self._last.speed, self.target_point)
        if self._last is not None and not math.isnan(self._last.compass):
            yaw = float(poses.compass_to_yaw(self._last.compass))
            self._gnss.advance(self._last.speed, yaw, control.steer)
        return control

    @property
    def target_point(self) -> np.ndarray:
        """(2,) the point of the route to drive to, in ego meters of the last tick."""
        tick = self._history[-1]
        target = poses.north_east_to_world(tick.target.north, tick.target.east)
        return poses.world_to_ego(target, tick.pose)

    def _completed(self, data: SensorData) -> SensorData:
        """Replace missing readings by the last ones."""
        last_images = self._last.images if self._last is not None else {}
        images = {}
        for camera in self.calibration.cameras:
            image = data.images.get(camera.name)
            if image is None:
                black = np.zeros((*self.calibration.stored_size, 3), dtype=np.uint8)
                image = last_images.get(camera.name, black)
            images[camera.name] = image
        compass = data.compass
        if math.isnan(compass) and self._last is not None:
            compass = self._last.compass
        return replace(data, images=images, compass=compass)

    def _joined_sweep(self, half: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """This half sweep and the one before, in the present ego frame."""
        before, self._half_sweep = self._half_sweep, (half, pose)
        if before is None:
            return half
        points, old_pose = before
        moved = points.copy()
        moved[:, :3] = poses.transform_points(poses.relative_pose(old_pose, pose), points[:, :3])
        return np.concatenate([moved, half])

    def _sample(self) -> Any:
        frames = list(range(0, self.history_length, self._spacing))
        results: dict[str, Any] = {
            'sample_id': 'closed_loop',
            'town': '',
            'route': '',
            'frame': frames[-1],
            'frames': frames,
            'future_frames': [],
            'reader': _HistoryReader(list(self._history), self.calibration),
            'calibration': self.calibration,
            'rng': np.random.default_rng(0),
            'index': 0,
            'requested_index': 0,
            'epoch': 0,
            'seed': 0,
            'skipped': [],
            'test_mode': True,
            'with_targets': False,
        }
        return run_pipeline(self.pipeline, results)


@dataclass(frozen=True)
class _Tick:
    """One tick of the history: what was sensed, where, and the node to drive to."""

    data: SensorData
    position: np.ndarray
    target: RouteNode

    @property
    def pose(self) -> np.ndarray:
        """(3,) world x, y and yaw."""
        yaw = poses.compass_to_yaw(self.data.compass)
        return np.array([*poses.north_east_to_world(*self.position), yaw])


class _HistoryReader(RouteReader):
    """Gives the ticks of a history to the pipeline as if they were frames of a recorded route."""

    def __init__(self, ticks: Sequence[_Tick], calibration: Calibration) -> None:
        self._ticks = ticks
        self._cameras = {camera.rgb: camera.name for camera in calibration.cameras}

    def path(self, folder: str, frame: int) -> str:
        return f'{folder} of tick {frame}'

    def measurements(self, frame: int) -> dict[str, Any]:
        tick = self._ticks[frame]
        return {
            'x': tick.position[0],
            'y': tick.position[1],
            'theta': tick.data.compass,
            'speed': tick.data.speed,
            'x_target': tick.target.north,
            'y_target': tick.target.east,
            'target_command': tick.target.command,
        }

    def points(self, frame: int) -> np.ndarray:
        return self._ticks[frame].data.points

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        image = self._ticks[frame].data.images[self._cameras[folder]]
        if image.shape != (*size, 3):
            raise SampleReadError(
                self.path(folder, frame),
                f'is an image of {image.shape[0]}x{image.shape[1]} pixels, the calibration says '
                f'{size[0]}x{size[1]}',
            )
        return image

    def supervision(self, frame: int) -> dict[str, Any]:
        raise SampleReadError(self.path('supervision', frame), 'a vehicle senses no labels')

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        raise SampleReadError(self.path(folder, frame), 'a vehicle senses no labels')

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        raise SampleReadError(self.path(folder, frame), 'a vehicle senses no labels')
