"""The embedded town as a Gymnasium environment."""

import math
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numba import njit

from thinktwice.closed_loop.criteria import Judge, Situation
from thinktwice.closed_loop.scoring import PENALTIES, Infraction, InfractionKind, RouteResult
from thinktwice.datasets.calibration import Calibration
from thinktwice.errors import ConfigError
from thinktwice.geometry.poses import wrap_angle
from thinktwice.geometry.route_planner import RouteNode
from thinktwice.minitown import Camera, CameraRig, Control, Drive, Lidar, Sensors
from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF, STEP_SECONDS
from thinktwice.minitown.world.classes import GROUND_SIDEWALK, GROUND_TERRAIN, RED
from thinktwice.minitown.world.primitives import CYLINDER
from thinktwice.minitown.world.town import Town

TOWNS = ('town02_00', 'town05_00')
"""Towns that are driven by default: those held out of training."""
SECONDS_PER_METER = 0.8
INITIAL_SECONDS = 5.0
"""Time allowed for a route, as the leaderboard grants it."""
MAX_CREDITED_DEVIATION = 10.0
"""Distance from the route in meters up to which progress along it counts."""
VEHICLE_HEIGHT = (0.1, 1.6)
"""Heights in meters between which something that stands is in the way of a vehicle."""
WRONG_WAY = 2.0
"""Angle in radians to the direction of the nearest lane from which on the lane is the wrong one."""
MAX_POINTS = 65536
"""Rows of an observation's LiDAR array."""
ACTION_BOUNDS = ((0.0, -1.0, 0.0), (1.0, 1.0, 1.0))
"""Lowest and highest throttle, steer and brake."""


@dataclass(frozen=True)
class RouteRequest:
    """Which route to drive; with equal values a drive is equal.

    Attributes:
        town: name of the town, for example ``town02_00``.
        seed: of traffic and route.
        number: of the route among those of this town and seed.
    """

    town: str
    seed: int
    number: int

    @property
    def name(self) -> str:
        """The route's name in results."""
        return f'{self.town}_seed{self.seed}_route{self.number:02d}'


def town_sensors(calibration: Calibration) -> tuple[Sensors, Calibration]:
    """Sensors of the town as those of a dataset.

    Args:
        calibration: of the dataset.

    Returns:
        Cameras at the places of those of the dataset and its LiDAR, by default that of the CARLA recordings;
        and the calibration of their images, which are as those of the dataset after undistortion.

    Raises:
        ConfigError: the cameras differ in their intrinsics, or one is tilted.
    """
    first, size = calibration.cameras[0], calibration.image_size
    rig = CameraRig(
        size,
        math.degrees(2 * math.atan(size[1] / 2 / first.intrinsics[0])),
        tuple(
            Camera(camera.name, tuple(camera.cam2ego[:3, 3].tolist()), _yaw(camera.cam2ego))
            for camera in calibration.cameras
        ),
    )
    for camera, placed in zip(calibration.cameras, rig.cameras, strict=True):
        is_level = np.allclose(camera.cam2ego, placed.cam2ego, atol=1e-3)
        if not is_level or not np.allclose(camera.intrinsics, rig.intrinsics, atol=1e-2):
            raise ConfigError(
                f'camera {camera.name!r} of the dataset is tilted, or its intrinsics '
                f'{camera.intrinsics.tolist()} are not {list(rig.intrinsics)}: the town has level cameras '
                'of one field of view, so a model of this dataset cannot drive there'
            )
    cameras = (
        replace(camera, raw_intrinsics=camera.intrinsics, distortion=np.zeros(5))
        for camera in calibration.cameras
    )
    sensors = Sensors(rig, Lidar(*calibration.lidar_size) if calibration.lidar_size else Lidar())
    return sensors, replace(calibration, cameras=tuple(cameras), stored_size=size)


def _yaw(cam2ego: np.ndarray) -> float:
    """Direction of the optical axis in radians, positive to the right."""
    return math.atan2(cam2ego[1, 2], cam2ego[0, 2])


class MinitownEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Drive a route of the embedded town.

    An action is (throttle 0..1, steer -1..1 with right positive, brake 0..1), held until the next one. An
    observation holds ``images`` by camera ((H, W, 3) uint8 RGB), ``lidar`` ((65536, 4) float32 x, y, z in ego
    meters and intensity, rows after ``lidar_points`` are zero), ``position`` (north, east in meters),
    ``compass`` (radians, clockwise from north), ``speed`` (m/s), ``acceleration`` and ``angular_velocity``
    (body axes, m/s^2 and rad/s). Without sensors it has no images and no LiDAR.

    The reward is the progress along the route in meters, less the loss of score of each infraction in
    percent. An episode terminates at the end of the route, too far from it, or after standing for too long;
    it is truncated when the time allowed is over. ``info`` holds ``infractions`` (those that began with
    this step), ``progress`` (share of the route) and, at the end, ``result`` (a :class:`RouteResult`);
    ``reset`` gives ``route``, the nodes for a route planner, and ``request``.

    Args:
        sensors: cameras and LiDAR of the vehicle; None observes its own motion only, which is fast.
        frequency: decisions per second, 10 or 20.
        route_length: meters to drive.

    Raises:
        ValueError: on another frequency or a route without length.
    """

    metadata = {'render_modes': []}

    def __init__(
        self, sensors: Sensors | None = None, frequency: int = 10, route_length: float = 200.0
    ) -> None:
        if frequency not in (10, 20):
            raise ValueError(f'frequency must be 10 or 20 decisions per second, got {frequency}')
        if not route_length > 0:
            raise ValueError(f'route_length must be a positive number of meters, got {route_length}')
        self.sensors = sensors
        self.route_length = route_length
        self.steps_per_action = round(1 / STEP_SECONDS / frequency)
        low, high = np.array(ACTION_BOUNDS, dtype=np.float32)
        self.action_space = spaces.Box(low, high)
        self.observation_space = self._make_observation_space()
        self._drive: Drive | None = None

    def _make_observation_space(self) -> spaces.Dict:
        def real(*shape: int) -> spaces.Box:
            return spaces.Box(-np.inf, np.inf, shape, np.float64)

        parts: dict[str, spaces.Space] = {
            'position': real(2),
            'compass': real(1),
            'speed': real(1),
            'acceleration': real(3),
            'angular_velocity': real(3),
        }
        if self.sensors is not None:
            size = (*self.sensors.rig.size, 3)
            names = [camera.name for camera in self.sensors.rig.cameras]
            parts['images'] = spaces.Dict({name: spaces.Box(0, 255, size, np.uint8) for name in names})
            parts['lidar'] = spaces.Box(-np.inf, np.inf, (MAX_POINTS, 4), np.float32)
            parts['lidar_points'] = spaces.Discrete(MAX_POINTS + 1)
        return spaces.Dict(parts)

    @property
    def drive(self) -> Drive:
        """The simulated drive; for policies that use more than the observation.

        Raises:
            RuntimeError: before the first ``reset``.
        """
        if self._drive is None:
            raise RuntimeError('reset() has to be called before the first step')
        return self._drive

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a route.

        Args:
            seed: decides traffic and route; drawn if None.
            options: ``town`` (default: drawn from the held-out ones) and ``route``, its number (default: 0).

        Raises:
            ValueError: on an unknown option or town.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        town = options.pop('town', None) or TOWNS[int(self.np_random.integers(len(TOWNS)))]
        number = options.pop('route', 0)
        if options:
            raise ValueError(f'unknown options {sorted(options)}: town and route are known')
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        self._request = RouteRequest(town, drawn, number)
        max_seconds = INITIAL_SECONDS + SECONDS_PER_METER * self.route_length
        self._drive = Drive(town, drawn, number, seconds=max_seconds)
        self._start = self._drive.along
        self._first_step = self._drive.steps
        self._progress = 0.0
        self._judge = Judge(max_seconds)
        self._lidar_rng = np.random.default_rng([drawn, number])
        self._surroundings = _Surroundings(self._drive.town)
        self._judge.step(self._situation())
        info = {'request': self._request, 'route': self.route_nodes(), 'progress': 0.0, 'infractions': ()}
        return self._observe(), info

    def route_nodes(self) -> list[RouteNode]:
        """The nodes of the route from its start, a meter apart, as a navigation system would give them."""
        return self.drive.route.nodes(self._start)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold an action for one decision's time.

        Args:
            action: (3,) throttle, steer and brake; clipped to their ranges.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: before the first ``reset``.
        """
        drive, values = self.drive, np.asarray(action, dtype=np.float64)
        if values.shape != (3,) or not np.isfinite(values).all():
            raise ValueError(f'an action is three finite numbers (throttle, steer, brake), got {action!r}')
        control = Control(*np.clip(values, *ACTION_BOUNDS).tolist())
        before, found = self._progress, []
        terminated = truncated = False
        for _ in range(self.steps_per_action):
            drive.step(control)
            found += self._judge.step(self._situation())
            terminated = self._progress >= self.route_length or any(event.kind in _ENDINGS for event in found)
            truncated = any(event.kind is InfractionKind.ROUTE_TIMEOUT for event in found)
            if terminated or truncated:
                break
        lost = sum(100.0 * (1.0 - PENALTIES.get(event.kind, 1.0)) for event in found)
        info: dict[str, Any] = {
            'infractions': tuple(found),
            'progress': self._progress / self.route_length,
        }
        if terminated or truncated:
            info['result'] = self.result()
        return self._observe(), self._progress - before - lost, terminated, truncated and not terminated, info

    def result(self) -> RouteResult:
        """What happened on the route so far."""
        return RouteResult(
            route_id=self._request.name,
            route_length=self.route_length,
            completed=self._progress,
            driven=self._judge.lanes.driven,
            outside=self._judge.lanes.outside,
            seconds=self._seconds,
            standing=self._judge.blocked.standing,
            infractions=tuple(self._judge.infractions),
        )

    @property
    def infractions(self) -> tuple[Infraction, ...]:
        """All infractions of the route so far."""
        return tuple(self._judge.infractions)

    @property
    def _seconds(self) -> float:
        return (self.drive.steps - self._first_step) * STEP_SECONDS

    def _situation(self) -> Situation:
        drive = self.drive
        x, y, yaw = drive.ego.pose
        snapshot = drive.snapshot()
        deviation = drive.deviation
        if deviation <= MAX_CREDITED_DEVIATION:
            self._progress = min(max(self._progress, drive.along - self._start), self.route_length)
        return Situation(
            time=self._seconds,
            ego=np.array([x, y, yaw, EGO_HALF[0], EGO_HALF[1]]),
            speed=drive.ego.speed,
            progress=self._progress,
            deviation=deviation,
            is_outside=self._surroundings.is_outside(x, y, yaw),
            vehicles=snapshot.vehicles,
            pedestrians=snapshot.pedestrians,
            static_boxes=self._surroundings.boxes,
            static_circles=self._surroundings.circles,
            stop_lines=snapshot.stop_lines,
            is_red=snapshot.light_states == RED,
        )

    def _observe(self) -> dict[str, Any]:
        drive = self.drive
        measured = drive.measurements()
        observation: dict[str, Any] = {
            'position': np.array([measured['x'], measured['y']], dtype=np.float64),
            'compass': np.array([measured['theta']], dtype=np.float64),
            'speed': np.array([measured['speed']], dtype=np.float64),
            'acceleration': np.array(measured['acceleration'], dtype=np.float64),
            'angular_velocity': np.array(measured['angular_velocity'], dtype=np.float64),
        }
        if self.sensors is not None:
            seen = self.sensors.observe(drive.scene(), drive.ego.pose, self._lidar_rng)
            names = [camera.name for camera in self.sensors.rig.cameras]
            lidar = np.zeros((MAX_POINTS, 4), dtype=np.float32)
            points = seen.points[:MAX_POINTS]
            lidar[: len(points)] = points
            images = [view.rgb for view in seen.views]
            observation['images'] = dict(zip(names, images, strict=True))
            observation['lidar'] = lidar
            observation['lidar_points'] = np.int64(len(points))
        return observation


_ENDINGS = (InfractionKind.ROUTE_DEVIATION, InfractionKind.BLOCKED)


class _Surroundings:
    """Static surroundings of a drive: obstacles, road and lanes."""

    def __init__(self, town: Town) -> None:
        shapes, (low, high) = town.shapes, VEHICLE_HEIGHT
        bottom, top = shapes.center[:, 2] - shapes.half[:, 2], shapes.center[:, 2] + shapes.half[:, 2]
        shapes = shapes.select((bottom < high) & (top > low))
        is_round = shapes.kind == CYLINDER
        self.boxes = np.column_stack([shapes.center[:, :2], shapes.yaw, shapes.half[:, :2]])[~is_round]
        self.circles = np.column_stack([shapes.center[:, :2], shapes.half[:, 0]])[is_round]
        self._ground = town.ground
        lanes = town.layout.lanes
        self._points = np.concatenate([lane.points for lane in lanes])
        self._headings = np.concatenate([lane.headings for lane in lanes])
        self._is_street = np.concatenate([np.full(len(lane.points), not lane.is_connector) for lane in lanes])

    def is_outside(self, x: float, y: float, yaw: float) -> bool:
        """Whether a place is off the road, or in a street's lane of the opposite direction."""
        if int(self._ground.lookup(np.array([x, y]))) in (GROUND_TERRAIN, GROUND_SIDEWALK):
            return True
        nearest = _nearest(self._points, x, y)
        turned = abs(float(wrap_angle(yaw - self._headings[nearest])))
        return bool(self._is_street[nearest]) and turned > WRONG_WAY


@njit(cache=True)
def _nearest(points, x: float, y: float) -> int:  # type: ignore[no-untyped-def]
    """Index of the point (N, 2) nearest to (x, y), the first of several."""
    best, shortest = 0, np.inf
    for index in range(len(points)):
        distance = (points[index, 0] - x) ** 2 + (points[index, 1] - y) ** 2
        if distance < shortest:
            best, shortest = index, distance
    return best
