"""Steps of the pipeline: what they declare is what they do, and their numbers are right."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_dataset
from helpers.tiny_dataset import change_measurements, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.datasets.calibration import load_calibration
from thinktwice.datasets.pipelines import (
    LoadMeasurements,
    LoadPoints,
    LoadSupervision,
    LoadWaypoints,
    PackSample,
    run_pipeline,
)
from thinktwice.datasets.pipelines.measurements import command_index
from thinktwice.datasets.storage import DatasetStorage, SampleReadError
from thinktwice.errors import ConfigError
from thinktwice.registry import TRANSFORMS

TOWN, ROUTE = 'town01_00', 'routes_a'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, {f'{TOWN}/{ROUTE}': 8})


def start(root: Path, frames: tuple[int, ...] = (0, 1), horizon: int = 4) -> dict[str, Any]:
    """What the dataset hands to the first step."""
    storage = DatasetStorage(root)
    return {
        'sample_id': 'x',
        'town': TOWN,
        'route': ROUTE,
        'frame': frames[-1],
        'frames': list(frames),
        'future_frames': [frames[-1] + 1 + k for k in range(horizon)],
        'reader': storage.route(TOWN, ROUTE),
        'calibration': load_calibration(storage),
        'rng': np.random.default_rng(0),
        'index': 0,
        'requested_index': 0,
        'epoch': 0,
        'seed': 0,
        'skipped': [],
        'test_mode': False,
        'with_targets': True,
    }


class Recorder(dict):
    """Remembers which keys are read and written."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.read: set[str] = set()
        self.written: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.written.add(key)
        super().__setitem__(key, value)


def declared(step: object, section: str) -> set[str]:
    """Names listed under a section of the docstring."""
    text = inspect.getdoc(type(step)) or ''
    found = re.search(rf'{section} Keys:\n((?:[ ]+.*\n?|\n(?=[ ]))*)', text)
    names: set[str] = set()
    for line in re.findall(r'-\s(.*)', found.group(1) if found else ''):
        head = re.sub(r'\(.*?\)', '', line).split(':')[0]
        names |= {name.strip() for name in head.split(',')}
    return names


@pytest.mark.parametrize(
    'step',
    [LoadMeasurements(), LoadPoints(), LoadWaypoints(), LoadSupervision()],
    ids=lambda step: type(step).__name__,  # the same in every worker process
)
def test_steps_read_and_add_what_they_declare(step: Any, root: Path) -> None:
    results = start(root)
    if not isinstance(step, LoadMeasurements):
        results = LoadMeasurements()(results)
    recorder = Recorder(results)
    step(recorder)
    assert recorder.read - recorder.written == declared(step, 'Required')
    assert recorder.written == declared(step, 'Added')


def test_all_steps_are_registered() -> None:
    for step in (LoadMeasurements, LoadPoints, LoadWaypoints, LoadSupervision, PackSample):
        assert TRANSFORMS.get(step.__name__) is step


def test_history_points_land_where_the_key_frame_sees_them(root: Path) -> None:
    """Each history point goes through the world by explicit trigonometry."""
    results = LoadPoints()(LoadMeasurements()(start(root, frames=(0, 1, 2))))
    cloud = results['points']
    sweeps = [tiny_dataset.points_of(frame) for frame in (2, 1, 0)]
    assert cloud.dtype == np.float32
    np.testing.assert_array_equal(cloud[:, 4], np.repeat([0, -1, -2], [len(s) for s in sweeps]))
    np.testing.assert_array_equal(cloud[:, 3], np.concatenate(sweeps)[:, 3])
    np.testing.assert_array_equal(cloud[: len(sweeps[0]), :3], sweeps[0][:, :3])
    key, old = tiny_dataset.measurements_of(2), tiny_dataset.measurements_of(0)
    forward, right = sweeps[2][:, 0].astype(np.float64), sweeps[2][:, 1].astype(np.float64)
    north = old['x'] + forward * np.cos(old['theta']) - right * np.sin(old['theta']) - key['x']
    east = old['y'] + forward * np.sin(old['theta']) + right * np.cos(old['theta']) - key['y']
    expected = np.stack(
        [
            north * np.cos(key['theta']) + east * np.sin(key['theta']),
            -north * np.sin(key['theta']) + east * np.cos(key['theta']),
            sweeps[2][:, 2],
        ],
        axis=1,
    )
    np.testing.assert_allclose(cloud[-len(sweeps[2]) :, :3], expected, atol=1e-5)


def test_published_straight_drive_moves_a_point_by_three_meters() -> None:
    class Reader:
        def points(self, frame: int) -> np.ndarray:
            return np.array([[10, 0, 1, 0.5]], dtype=np.float32)

    results = {'reader': Reader(), 'frames': [0, 1], 'ego_poses': np.array([[0, 0, 0], [3.0, 0, 0]])}
    np.testing.assert_allclose(
        LoadPoints()(results)['points'], [[10, 0, 1, 0.5, 0], [7, 0, 1, 0.5, -1]], atol=1e-6
    )


def test_cloud_of_one_frame_has_the_same_columns(root: Path) -> None:
    cloud = LoadPoints()(LoadMeasurements()(start(root, frames=(3,))))['points']
    np.testing.assert_array_equal(cloud[:, :4], tiny_dataset.points_of(3))
    np.testing.assert_array_equal(cloud[:, 4], 0)


def test_key_frame_pose_is_the_identity(root: Path) -> None:
    frame2key = LoadMeasurements()(start(root))['frame2key']
    np.testing.assert_array_equal(frame2key[-1], np.eye(4))
    assert not np.allclose(frame2key[0], np.eye(4))


@given(st.integers(-5, 12))
def test_any_command_out_of_range_follows_the_lane(value: int) -> None:
    index, replaced = command_index(value)
    assert replaced == (value not in (1, 2, 3, 4, 5, 6))
    assert index == (3 if replaced else value - 1)


def test_replaced_command_is_marked(root: Path) -> None:
    change_measurements(root, f'{TOWN}/{ROUTE}', 1, target_command=0)
    results = LoadMeasurements()(start(root))
    assert (results['command'], results['command_replaced']) == (3, True)


def test_supervision_keeps_what_is_used(root: Path) -> None:
    results = LoadSupervision()(start(root, frames=(0, 1)))
    key = tiny_dataset.supervision_of(1)
    for level, teacher_map in zip((2, 3, 4, 5), results['grid_feature'], strict=True):
        np.testing.assert_array_equal(teacher_map, key['cnn_features'][level])
    future = [tiny_dataset.supervision_of(frame) for frame in (2, 3, 4, 5)]
    np.testing.assert_array_equal(
        results['future_grid_feature'], np.stack([values['cnn_features'][2] for values in future])
    )
    np.testing.assert_array_equal(results['action_alpha'], key['action_mu'])
    np.testing.assert_array_equal(results['action_beta'], key['action_sigma'])
    assert results['future_action_alpha'].shape == (3, 2)
    np.testing.assert_array_equal(results['future_action_beta'][2], future[2]['action_sigma'])
    assert results['value'] == pytest.approx(float(key['value']))


def test_hazard_brake_replaces_the_acceleration_and_leaves_the_steering(root: Path) -> None:
    braking = tiny_dataset.BRAKE_FRAME
    key = LoadSupervision()(start(root, frames=(braking - 1, braking)))
    before = LoadSupervision(brake_alpha=0.5, brake_beta=9.0)(start(root, frames=(0, braking - 2)))
    recorded = tiny_dataset.supervision_of(braking)
    np.testing.assert_allclose(key['action_alpha'], [0.8, recorded['action_mu'][1]])
    np.testing.assert_allclose(key['action_beta'], [5.5, recorded['action_sigma'][1]])
    np.testing.assert_allclose(before['future_action_alpha'][1], [0.5, recorded['action_mu'][1]])
    np.testing.assert_allclose(before['future_action_beta'][1], [9.0, recorded['action_sigma'][1]])


def test_map_that_was_not_kept_is_named(root: Path) -> None:
    with pytest.raises(SampleReadError, match=r'supervision/0001\.npy: has no teacher map of level 6'):
        LoadSupervision(levels=(6,))(start(root))


def test_label_steps_do_nothing_without_targets(root: Path) -> None:
    results = LoadMeasurements()({**start(root), 'with_targets': False, 'future_frames': [900]})
    keys = set(results)
    assert set(LoadSupervision()(LoadWaypoints()(results))) == keys


def test_packing_takes_what_the_steps_made(root: Path) -> None:
    packed = PackSample()(LoadMeasurements()(start(root)))
    assert set(packed['inputs']) == {'frame2key', 'speed', 'target_point', 'command'}
    assert packed['targets'] == {} and 'image_paths' not in packed['metas']
    results = {**LoadMeasurements()(start(root)), 'radar': np.ones((3, 2)), 'boxes': np.zeros(4)}
    packed = PackSample(inputs=['radar'], targets=['boxes'])(results)
    assert packed['inputs']['radar'].shape == (3, 2) and set(packed['targets']) == {'boxes'}


def test_actions_are_read_without_the_features_of_the_teacher(root: Path) -> None:
    whole = LoadSupervision()(start(root))
    actions = LoadSupervision(with_features=False)(start(root))
    assert set(whole) - set(actions) == {'value', 'feature', 'grid_feature', 'future_grid_feature'}
    for key in ('action_alpha', 'action_beta', 'future_action_alpha', 'future_action_beta'):
        assert (actions[key] == whole[key]).all()


def test_noise_in_the_labels_leaves_the_inputs_alone(root: Path) -> None:
    def packed(noisy: bool) -> dict[str, Any]:
        results = LoadPoints()(LoadMeasurements()(start(root)))
        results = LoadSupervision()(LoadWaypoints()(tiny_dataset.NoisyCameras()(results)))
        if noisy:
            results['waypoints'] = results['waypoints'] + 100
            results['feature'] = results['feature'] * 0
        return PackSample()(results)

    clean, noisy = packed(False), packed(True)
    assert tiny_dataset.equal(clean['inputs'], noisy['inputs'])
    assert not torch.equal(clean['targets']['waypoints'], noisy['targets']['waypoints'])


def test_a_step_before_the_one_that_it_needs_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"LoadPoints reads 'ego_poses', which no step before it adds"):
        run_pipeline([LoadPoints(), LoadMeasurements()], start(root))
    assert 'points' in run_pipeline([LoadMeasurements(), LoadPoints()], start(root))

    def mine(results: dict[str, Any]) -> dict[str, Any]:
        return results['mine']

    with pytest.raises(KeyError, match='mine'):
        run_pipeline([mine], start(root))
