"""Buffers as a CARLA server delivers them, against recordings, the client's types and the specification."""

import math
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch

from thinktwice.closed_loop.agent import DrivingAgent
from thinktwice.closed_loop.carla_input import CarlaInput, sensor_rig, without_distortion
from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.calibration import Calibration, package_calibration
from thinktwice.datasets.pixels import center_augmentation, pixel_map
from thinktwice.minitown import Lidar, record

PIPELINE = [
    {'type': 'LoadMeasurements'},
    {'type': 'LoadPoints'},
    {'type': 'LoadCameras', 'image_size': (32, 64), 'training': False},
    {'type': 'PackSample'},
]
PLAN = [({'lat': 0.0, 'lon': 0.0, 'z': 0.0}, 4), ({'lat': 0.002, 'lon': 0.0, 'z': 0.0}, 4)]


class RoadOption(Enum):
    """As in CARLA's agents.navigation.local_planner."""

    VOID = -1
    LEFT = 1
    LANEFOLLOW = 4


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CarlaDataset:
    root = tmp_path_factory.mktemp('town')
    record(root, routes=1, frames=7, size=(48, 96), towns=['town01_00'], lidar=Lidar(channels=8, columns=90))
    split = {'towns': ['town01'], 'indices': ['00'], 'caps': None}
    return CarlaDataset(root, PIPELINE, split, num_frames=2, horizon=4, test_mode=True)


def small_rig() -> Calibration:
    return package_calibration().select(['front'])


def buffers(calibration: Calibration, **changes: Any) -> dict[str, tuple[int, Any]]:
    """Data of all sensors: gray images, no points, at the map's origin, heading north."""
    image = np.full((*calibration.stored_size, 4), 128, dtype=np.uint8)
    data = {
        **{camera.rgb: image for camera in calibration.cameras},
        'lidar': np.zeros((0, 4), dtype=np.float32),
        'imu': np.zeros(7),
        'gnss': np.zeros(3),
        'speed': {'speed': 0.0},
        **changes,
    }
    return {name: (7, value) for name, value in data.items()}


def recorded(dataset: CarlaDataset, frame: int) -> tuple[dict[str, Any], dict[str, tuple[int, Any]]]:
    """Measurements of a recorded frame, and the frame as the buffers of a server."""
    calibration = dataset.calibration
    town, route, _ = dataset.sample_id(0).split('/')
    reader = dataset.storage.route(town, route)
    values = reader.measurements(frame)
    images = {}
    for camera in calibration.cameras:
        red, green, blue = np.moveaxis(reader.rgb(camera.rgb, frame, calibration.stored_size), 2, 0)
        images[camera.rgb] = np.stack([blue, green, red, np.full_like(red, 255)], axis=2)
    points = reader.points(frame).copy()
    points[:, 2] -= calibration.lidar_height
    position = [values['x'] / calibration.north_per_degree, values['y'] / calibration.east_per_degree, 0.0]
    imu = [0.1, 0.2, 9.8, 0.0, 0.0, 0.3, values['theta']]
    speed = {'speed': values['speed']}
    return values, buffers(
        calibration, **images, lidar=points, gnss=np.array(position), imu=np.array(imu), speed=speed
    )


def test_buffers_of_a_recorded_frame_give_its_sample(dataset: CarlaDataset) -> None:
    expected, calibration = dataset[0], dataset.calibration
    frame = expected['metas']['frame']
    start, before = recorded(dataset, frame - 1)
    values, now = recorded(dataset, frame)

    def degrees(north: float, east: float) -> dict[str, float]:
        return {'lat': north / calibration.north_per_degree, 'lon': east / calibration.east_per_degree}

    target = degrees(values['x_target'], values['y_target'])
    plan = [(degrees(start['x'], start['y']), 4), (target, int(values['target_command']))]
    agent = DrivingAgent(lambda samples: [], dataset.steps, calibration, tick_seconds=0.5)
    carla_input = CarlaInput(calibration, plan)
    agent.reset(carla_input.route)
    assert agent.observe(carla_input.sensor_data(before)) is None
    sample = agent.observe(carla_input.sensor_data(now))
    assert sample['inputs'].keys() == expected['inputs'].keys()
    torch.testing.assert_close(sample['inputs'], expected['inputs'], rtol=1e-6, atol=1e-5)
    assert torch.equal(sample['inputs']['img'], expected['inputs']['img'])


def test_degrees_are_those_of_the_specification() -> None:
    """V3: world (100, 50) is north -50.002298, east 100.000000."""
    calibration = small_rig()
    gnss = np.array([-0.0004491576420520, 0.0008983152841195, 3.0])
    position = CarlaInput(calibration, PLAN).sensor_data(buffers(calibration, gnss=gnss)).position
    assert position == pytest.approx((-50.002298, 100.0), abs=1e-6)


def test_distances_are_right_on_a_map_at_any_latitude() -> None:
    """The server converts by a Mercator projection, scaled to be true at the map's origin."""
    radius, latitude, longitude = 6378137.0, 49.0, 8.0

    def gnss(x: float, y: float) -> dict[str, float]:
        scale = math.cos(math.radians(latitude))
        north = math.log(math.tan(math.radians(90 + latitude) / 2)) - y / (scale * radius)
        return {
            'lat': math.degrees(2 * math.atan(math.exp(north))) - 90,
            'lon': longitude + math.degrees(x / (scale * radius)),
        }

    corners = [(3000.0, -2000.0), (3300.0, -2000.0), (3300.0, -1900.0)]
    route = CarlaInput(small_rig(), [(gnss(x, y), RoadOption.LANEFOLLOW) for x, y in corners]).route
    steps = [
        (after.north - node.north, after.east - node.east)
        for node, after in zip(route, route[1:], strict=False)
    ]
    np.testing.assert_allclose(steps, [(0.0, 300.0), (-100.0, 0.0)], atol=0.2)


def test_options_of_the_plan_become_commands(dataset: CarlaDataset) -> None:
    calibration = dataset.calibration
    for option, command in ((RoadOption.LEFT, 0), (RoadOption.VOID, 3), (6, 5)):
        carla_input = CarlaInput(calibration, [PLAN[0], ({'lat': 0.0001, 'lon': 0.0}, option)])
        agent = DrivingAgent(lambda samples: [], dataset.steps, calibration, tick_seconds=0.5)
        agent.reset(carla_input.route)
        for _ in range(2):
            sample = agent.observe(carla_input.sensor_data(buffers(calibration)))
        assert int(sample['inputs']['command']) == command
    with pytest.raises(ValueError, match='no node'):
        CarlaInput(calibration, [])


def test_what_is_missing_is_left_to_the_agent() -> None:
    calibration = package_calibration().select(['front', 'left'])
    complete = buffers(calibration)
    carla_input = CarlaInput(calibration, PLAN)
    missing = {name: value for name, value in complete.items() if name not in ('rgb_left', 'lidar', 'imu')}
    data = carla_input.sensor_data(missing)
    assert list(data.images) == ['front']
    assert data.points.shape == (0, 4)
    assert math.isnan(data.compass)
    assert math.isnan(carla_input.sensor_data(buffers(calibration, imu=np.full(7, math.nan))).compass)
    for name in ('gnss', 'speed'):
        with pytest.raises(KeyError, match=name):
            carla_input.sensor_data({key: value for key, value in complete.items() if key != name})


def test_buffers_of_the_server_stay_as_they_are() -> None:
    calibration = small_rig()
    points = np.array([[1.0, 2.0, 3.0, 0.9]], dtype=np.float32)
    data = CarlaInput(calibration, PLAN).sensor_data(buffers(calibration, lidar=points))
    assert data.points.tolist() == pytest.approx(np.array([[1.0, 2.0, 5.5, 0.9]]))
    assert points[0, 2] == 3.0


def test_rig_is_that_of_the_recordings() -> None:
    rig = {sensor['id']: sensor for sensor in sensor_rig(package_calibration())}
    poses = {
        'rgb_front': (1.5, 0.0, 2.5, 0.0),
        'rgb_left': (0.0, -0.3, 2.5, -90.0),
        'rgb_right': (0.0, 0.3, 2.5, 90.0),
        'rgb_back': (-1.6, 0.0, 2.5, 180.0),
        'lidar': (0.0, 0.0, 2.5, 0.0),
        'imu': (0.0, 0.0, 0.0, 0.0),
        'gnss': (0.0, 0.0, 0.0, 0.0),
    }
    assert rig.keys() == {*poses, 'speed'}
    for name, pose in poses.items():
        assert [rig[name][key] for key in ('x', 'y', 'z', 'yaw')] == pytest.approx(pose), name
        assert rig[name]['roll'] == rig[name]['pitch'] == 0.0
    for name in list(poses)[:4]:
        assert (rig[name]['width'], rig[name]['height']) == (1600, 900)
        assert rig[name]['fov'] == pytest.approx(150.0)
    assert rig['speed']['reading_frequency'] == 20


def test_pinhole_cameras_give_the_same_undistorted_image() -> None:
    calibration = package_calibration()
    pinhole = without_distortion(calibration)
    for camera, before in zip(pinhole.cameras, calibration.cameras, strict=True):
        assert camera.is_pinhole
        np.testing.assert_array_equal(camera.intrinsics, before.intrinsics)
        np.testing.assert_array_equal(camera.cam2ego, before.cam2ego)
    # a ray, drawn by CARLA with 150 degrees and sampled for the pixel where the undistorted camera has it
    positions = pixel_map(pinhole.cameras[0], center_augmentation((900, 1600), (900, 1600)))
    right, down = 0.5, 0.2
    u, v = 788.25758876 + 304.14395142 * right, 449.78972161 + 221.49429321 * down
    focal = 800 / math.tan(math.radians(75))
    row, column = round(v), round(u)
    assert positions.x[row, column] == pytest.approx(
        800 + focal * (right + (column - u) / 304.14395142), abs=1e-2
    )
    assert positions.y[row, column] == pytest.approx(
        450 + focal * (down + (row - v) / 221.49429321), abs=1e-2
    )


def test_cameras_see_what_the_client_s_transforms_say() -> None:
    carla = pytest.importorskip('carla', reason='needs the CARLA client: pip install thinktwice[carla]')
    calibration = package_calibration()
    sensors = {sensor['id']: sensor for sensor in sensor_rig(calibration)}
    rng = np.random.default_rng(0)
    for camera in calibration.cameras:
        sensor = sensors[camera.rgb]
        location = carla.Location(x=sensor['x'], y=sensor['y'], z=sensor['z'])
        mounted = carla.Transform(location, carla.Rotation(yaw=sensor['yaw']))
        fx, fy, cx, cy = camera.raw_intrinsics
        focal = sensor['width'] / 2 / math.tan(math.radians(sensor['fov']) / 2)
        for _ in range(10):
            seen = rng.uniform([2, -5, -2], [30, 5, 2])  # forward, right, up from the camera
            point = mounted.transform(carla.Location(*seen.tolist()))
            x, y, z = (np.linalg.inv(camera.cam2ego) @ [point.x, point.y, point.z, 1])[:3]
            expected = (800 + focal * seen[1] / seen[0], 450 - focal * seen[2] / seen[0])
            assert (cx + fx * x / z, cy + fy * y / z) == pytest.approx(expected, abs=0.05)


def test_half_sweeps_are_joined_where_the_client_s_transforms_put_them() -> None:
    carla = pytest.importorskip('carla', reason='needs the CARLA client: pip install thinktwice[carla]')
    calibration = small_rig()
    pillars = np.random.default_rng(0).uniform([-20, -20, -2], [20, 20, 6], (40, 3)) + [200.0, -80.0, 0.0]

    def from_world(location: Any, yaw: float) -> np.ndarray:
        """All pillars in a frame of the client, (40, 4) with intensity."""
        matrix = np.array(carla.Transform(location, carla.Rotation(yaw=yaw)).get_inverse_matrix())
        points = pillars @ matrix[:3, :3].T + matrix[:3, 3]
        return np.concatenate([points, np.linspace(0.7, 1, 40)[:, None]], axis=1).astype(np.float32)

    agent = DrivingAgent(lambda samples: [], [lambda r: r], calibration, 0.05, num_frames=1, half_sweeps=True)
    carla_input = CarlaInput(calibration, PLAN)
    agent.reset(carla_input.route)
    for tick in range(4):
        x, y, yaw = 200.0 + 0.6 * tick, -80.0 + 0.1 * tick, 20.0 + 3 * tick
        half = slice(0, 20) if tick % 2 else slice(20, 40)
        data = buffers(
            calibration,
            lidar=from_world(carla.Location(x, y, 2.5), yaw)[half],
            gnss=np.array([-y / calibration.north_per_degree, x / calibration.east_per_degree, 0.0]),
            imu=np.array([0, 0, 9.8, 0, 0, 1.0, math.radians(yaw + 90)]),
        )
        results = agent.observe(carla_input.sensor_data(data))
        joined = results['reader'].points(results['frame'])
        expected = from_world(carla.Location(x, y, 0.0), yaw)
        if tick == 0:
            np.testing.assert_allclose(joined, expected[half], atol=1e-3)
        else:
            order = [*range(20, 40), *range(20)] if tick % 2 else range(40)  # the half before comes first
            np.testing.assert_allclose(joined, expected[list(order)], atol=1e-3)
