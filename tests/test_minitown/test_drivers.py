"""Recordings in which not the expert alone drives: its labels, what samples see of them, determinism."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import command

from thinktwice.datasets import CarlaDataset
from thinktwice.errors import ConfigError
from thinktwice.minitown import Control, Drive, Driver, Expert, Lidar, NoisyExpert, TakingTurns, record

SMALL = {'size': (32, 64), 'lidar': Lidar(channels=8, columns=60)}
FRAMES, TOWNS = 24, ['town01_00', 'town02_00']


class Circling:
    """Half throttle in a circle: leaves every lane and every road."""

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        pass

    def control(self, drive: Drive, observe: Callable) -> Control:
        return Control(throttle=0.5, steer=0.5)


class Watched:
    """Logs what happens at each decision of another driver."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.routes: list[list[tuple]] = []

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        self.routes.append([])
        self.driver.reset(drive, rng)

    def control(self, drive: Drive, observe: Callable) -> Control | None:
        control = self.driver.control(drive, observe)
        self.routes[-1].append((control, drive.decision, drive.deviation, drive.ego))
        return control


DRIVERS = {
    'noise': partial(NoisyExpert, 0.03, 0.35),
    'turns': lambda: TakingTurns(Circling(), 0.6),
}


@pytest.fixture(scope='module', params=DRIVERS)
def recorded(request, tmp_path_factory) -> tuple[Path, Watched]:
    root = tmp_path_factory.mktemp('driven') / request.param
    watched = Watched(DRIVERS[request.param]())
    record(root, 2, FRAMES, seed=2, towns=TOWNS, make_driver=lambda: watched, **SMALL)
    return root, watched


def read_records(root: Path) -> list[dict]:
    towns = json.loads((root / 'dataset_metadata.json').read_text())['towns']
    return [record for town in TOWNS for record in towns[town].values()]


def test_disturbed_are_the_frames_after_which_the_expert_did_not_drive_alone(recorded):
    root, watched = recorded
    for entry, log in zip(read_records(root), watched.routes, strict=True):
        disturbed = {index // 5 for index, (control, *_) in enumerate(log) if control is not None}
        assert 0 < len(disturbed) < FRAMES - 1
        assert entry['disturbed_frames'] == sorted(disturbed)
        assert (entry['frames'], entry['usable']) == (FRAMES, FRAMES)


def test_actions_are_the_expert_s_in_the_state_that_was_reached(recorded):
    root, watched = recorded
    for town, log in zip(TOWNS, watched.routes, strict=True):
        [route] = (root / town).iterdir()
        for frame in range(FRAMES - 1):
            _, decision, _, ego = log[5 * frame]
            values = np.load(route / f'supervision/{frame:04d}.npy', allow_pickle=True).item()
            control = decision.control
            expected = np.float32([control.throttle, control.steer, control.brake])
            np.testing.assert_array_equal(values['action'], expected)
            np.testing.assert_array_equal(values['action_mu'], decision.alpha)
            measured = json.loads((route / f'measurements/{frame:04d}.json').read_text())
            assert (measured['y'], -measured['x']) == (ego.x, ego.y)


def test_from_every_key_frame_on_the_expert_drives_alone_for_the_horizon(recorded):
    root, watched = recorded
    dataset = CarlaDataset(str(root), [], None)
    takeovers = 0
    assert len(dataset) > 5
    for index in range(len(dataset)):
        town, _, frame = dataset.sample_id(index).split('/')
        log = watched.routes[TOWNS.index(town)]
        first = 5 * int(frame)
        assert all(control is None for control, *_ in log[first : first + 5 * dataset.horizon])
        takeovers += any(control is not None for control, *_ in log[first - 5 : first])
    assert takeovers > 0, 'some samples begin where the expert takes over'


def test_the_recording_is_checked_and_scanned_like_any_other(recorded, tmp_path, capsys):
    root, _ = recorded
    assert command('tools/check_dataset.py')([str(root)]) == 0
    assert command('tools/generate_metadata.py')([str(root), '--metadata-dir', str(tmp_path)]) == 0
    scanned = json.loads((tmp_path / 'dataset_metadata.json').read_text())['towns']
    frames = [record['disturbed_frames'] for town in TOWNS for record in scanned[town].values()]
    assert frames == [record['disturbed_frames'] for record in read_records(root)]


def test_the_expert_fetches_a_driver_back_who_leaves_the_route(tmp_path):
    watched = Watched(TakingTurns(Circling(), 0.01))
    record(tmp_path / 'lost', 1, 40, seed=2, make_driver=lambda: watched, **SMALL)
    deviations = np.array([deviation for _, _, deviation, _ in watched.routes[0]])
    assert 3.0 < deviations.max() < 8.0
    assert any(control is None for control, *_ in watched.routes[0])


def test_bursts_of_noise_end_and_the_expert_returns_to_its_lane(tmp_path):
    def deviations(driver: Driver) -> np.ndarray:
        watched = Watched(driver)
        record(tmp_path / type(driver).__name__, 1, 40, seed=2, make_driver=lambda: watched, **SMALL)
        return np.array([deviation for _, _, deviation, _ in watched.routes[0]])

    noisy, calm = deviations(NoisyExpert(0.03, 0.7)), deviations(Expert())
    assert noisy.max() > calm.max() + 0.2
    assert np.median(noisy) < 0.4


def test_stops_without_a_reason_end_at_a_frame_and_show_how_the_expert_starts(tmp_path):
    watched = Watched(NoisyExpert(0.05, 0.4, 1.0))
    record(tmp_path / 'stops', 2, 40, seed=2, make_driver=lambda: watched, **SMALL)
    starts = 0
    for log in watched.routes:
        controls = [control for control, *_ in log]
        stops = [i for i, control in enumerate(controls) if control is not None]
        assert all(controls[i].brake == 1.0 and controls[i].throttle == 0.0 for i in stops)
        ends = [i + 1 for i in stops if i + 1 < len(log) and controls[i + 1] is None]
        assert ends and all(end % 5 == 0 for end in ends)
        starts += sum(log[end][3].speed < 0.1 and log[end][1].control.throttle > 0.0 for end in ends)
    assert starts > 0


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_files_depend_on_the_arguments_and_not_on_the_workers(tmp_path):
    settings = {'routes': 3, 'frames': 6, 'towns': TOWNS, **SMALL}
    make_driver = partial(TakingTurns, NoisyExpert(0.5, 1.0), 0.3)
    record(tmp_path / 'one', seed=5, make_driver=make_driver, **settings)
    record(tmp_path / 'two', seed=5, make_driver=make_driver, workers=2, **settings)
    record(tmp_path / 'expert', seed=5, **settings)
    one, two, expert = (all_bytes(tmp_path / name) for name in ('one', 'two', 'expert'))
    assert one == two
    assert one.keys() == expert.keys()
    assert one != expert
    assert all('disturbed_frames' not in entry for entry in read_records(tmp_path / 'expert'))


@pytest.mark.parametrize(
    ('make_driver', 'message'),
    [
        (partial(NoisyExpert, 0.0, 0.3), 'got 0.0, 0.3'),
        (partial(NoisyExpert, 0.1, 1.5), 'got 0.1, 1.5'),
        (partial(NoisyExpert, 0.1, 0.3, 1.5), '0.3 and 1.5'),
        (partial(TakingTurns, Expert(), 0.0), 'got 0.0'),
        (partial(TakingTurns, Expert(), 1.1), 'got 1.1'),
    ],
)
def test_what_makes_no_driver_is_refused_before_anything_is_written(tmp_path, make_driver, message):
    with pytest.raises(ConfigError, match=message):
        record(tmp_path / 'new', make_driver=make_driver, workers=2)
    assert not (tmp_path / 'new').exists()
