from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import thinktwice.closed_loop  # noqa: F401  (registers Minitown-v0)
from thinktwice.closed_loop import InfractionKind, MinitownEnv
from thinktwice.closed_loop.environment import MAX_POINTS, town_sensors
from thinktwice.datasets.calibration import parse_calibration
from thinktwice.errors import ConfigError
from thinktwice.minitown import CARLA_CAMERAS, Camera, CameraRig, Lidar, Sensors, make_calibration

OPTIONS = {'town': 'town02_00', 'route': 1}


def expert_action(env: MinitownEnv) -> np.ndarray:
    control = env.drive.decision.control
    return np.array([control.throttle, control.steer, control.brake])


def drive(env: MinitownEnv, policy, seed: int = 5, options: dict = OPTIONS) -> tuple[float, dict]:
    """Drive a route to its end; returns the sum of rewards and the last info."""
    env.reset(seed=seed, options=options)
    total, is_over = 0.0, False
    while not is_over:
        _, reward, terminated, truncated, info = env.step(policy(env))
        total, is_over = total + reward, terminated or truncated
    return total, info


@pytest.fixture(scope='module')
def sensors() -> Sensors:
    return Sensors(CameraRig((24, 40)), Lidar(channels=8, columns=60))


@pytest.mark.filterwarnings('ignore:.*Box observation space m.*imum value:UserWarning')
@pytest.mark.parametrize('with_sensors', [False, True])
def test_gymnasium_s_checker_passes(with_sensors: bool, sensors: Sensors) -> None:
    env = gymnasium.make('Minitown-v0', sensors=sensors if with_sensors else None)
    check_env(env.unwrapped, skip_render_check=True)


def test_the_expert_completes_a_route_and_the_rewards_are_its_length() -> None:
    total, info = drive(MinitownEnv(route_length=80.0), expert_action)
    result = info['result']
    assert result.status == 'Completed'
    assert result.driving_score == 100.0
    assert total == pytest.approx(80.0)
    assert result.driven == pytest.approx(80.0, abs=3.0)


def test_going_straight_on_leaves_the_road_and_ends_away_from_the_route() -> None:
    total, info = drive(MinitownEnv(), lambda env: np.array([0.5, 0.0, 0.0]), options={'town': 'town05_00'})
    result = info['result']
    kinds = {event.kind for event in result.infractions}
    assert {InfractionKind.OUTSIDE_LANES, InfractionKind.ROUTE_DEVIATION} <= kinds
    assert 0 < result.outside < result.driven
    assert result.route_completion < 100.0
    assert total < result.completed


def test_standing_is_truncated_when_the_time_allowed_is_over() -> None:
    env = MinitownEnv(route_length=10.0)
    env.reset(seed=1, options=OPTIONS)
    steps, truncated = 0, False
    while not truncated:
        _, _, terminated, truncated, info = env.step(np.array([0.0, 0.0, 1.0]))
        assert not terminated
        steps += 1
    assert steps == pytest.approx((5.0 + 0.8 * 10.0) * 10, abs=1)
    assert info['result'].status == 'Failed - Agent timed out'
    assert info['result'].standing > 8.0


def test_a_seed_decides_everything() -> None:
    def trace(seed: int) -> list:
        env = MinitownEnv(frequency=20)
        rows = [env.reset(seed=seed, options=OPTIONS)[0]]
        rows += [env.step(np.array([0.4, 0.01, 0.0]))[0] for _ in range(30)]
        return [np.concatenate(list(row.values())) for row in rows]

    np.testing.assert_array_equal(trace(3), trace(3))
    assert not np.array_equal(trace(3), trace(4))


def test_observation_is_what_a_recording_holds(sensors: Sensors) -> None:
    env = MinitownEnv(sensors)
    observation, info = env.reset(seed=7, options=OPTIONS)
    ego = env.drive.ego
    assert observation['position'].tolist() == [-ego.y, ego.x]
    assert set(observation['images']) == {camera.name for camera in sensors.rig.cameras}
    assert observation['lidar'].shape == (MAX_POINTS, 4)
    count = int(observation['lidar_points'])
    assert 0 < count <= 8 * 60
    assert not observation['lidar'][count:].any()
    first = info['route'][0]
    assert np.hypot(first.north + ego.y, first.east - ego.x) < 1.0


def test_the_town_s_sensors_are_those_of_the_dataset() -> None:
    recorded = CameraRig((24, 40), 80.0, (*CARLA_CAMERAS, Camera('low', (2.0, 0.4, 1.0), -0.9)))
    calibration = parse_calibration(make_calibration(Sensors(recorded, Lidar(8, 60))), 'here')
    sensors, found = town_sensors(calibration)
    rig = sensors.rig
    assert (sensors.lidar, found.lidar_size) == (Lidar(8, 60), (8, 60))
    assert town_sensors(replace(calibration, lidar_size=None))[0].lidar == Lidar()
    for camera, expected in zip(rig.cameras, recorded.cameras, strict=True):
        assert camera.name == expected.name
        np.testing.assert_allclose(camera.cam2ego, expected.cam2ego, atol=1e-12)
    np.testing.assert_allclose(rig.intrinsics, recorded.intrinsics)
    assert [camera.name for camera in town_sensors(calibration.select(['low']))[0].rig.cameras] == ['low']

    small = [replace(c, raw_intrinsics=c.raw_intrinsics / 2) for c in calibration.cameras]
    packed = replace(calibration, stored_size=(12, 20), cameras=tuple(small))
    sensors, found = town_sensors(packed)
    assert sensors.rig.size == found.stored_size == found.image_size == (24, 40)
    np.testing.assert_allclose(found.cameras[0].raw_intrinsics, recorded.intrinsics)


def test_cameras_that_the_town_has_not_are_refused() -> None:
    calibration = parse_calibration(make_calibration(Sensors(CameraRig((24, 40)))), 'here')
    front, *others = calibration.cameras
    tilt = np.eye(4)
    tilt[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(0.1), -np.sin(0.1), np.sin(0.1), np.cos(0.1)
    tilted = replace(front, cam2ego=tilt @ front.cam2ego)
    wide = replace(others[0], intrinsics=front.intrinsics * (0.5, 0.5, 1, 1))
    for cameras, name in (((tilted, *others), 'front'), ((front, wide), 'left')):
        with pytest.raises(ConfigError, match=f"camera '{name}' of the dataset is tilted, or its intrinsics"):
            town_sensors(replace(calibration, cameras=cameras))


@pytest.mark.parametrize(
    ('call', 'match'),
    [
        (lambda: MinitownEnv(frequency=7), 'frequency'),
        (lambda: MinitownEnv(route_length=0.0), 'route_length'),
        (lambda: MinitownEnv().reset(options={'weather': 1}), 'weather'),
        (lambda: MinitownEnv().reset(options={'town': 'nowhere'}), 'nowhere'),
        (lambda: MinitownEnv().step(np.zeros(3)), 'reset'),
    ],
)
def test_what_makes_no_drive_is_refused(call, match: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=match):
        call()


@pytest.mark.parametrize('action', [[np.nan, 0.0, 0.0], [0.0, 0.0]])
def test_an_action_that_is_no_control_is_refused(action: list) -> None:
    env = MinitownEnv()
    env.reset(seed=0, options=OPTIONS)
    with pytest.raises(ValueError, match='three finite numbers'):
        env.step(np.array(action))
