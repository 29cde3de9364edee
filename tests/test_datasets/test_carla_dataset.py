"""The dataset as training uses it: samples, randomness, workers, damaged files, messages."""

import json
import pickle
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_dataset
from helpers.tiny_dataset import change_measurements, equal, pipeline, write_dataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from thinktwice.datasets import (
    CarlaDataset,
    SampleKey,
    SampleReadError,
    SkippedSampleTally,
    TrainSampler,
    collate_samples,
)
from thinktwice.datasets.metadata import JSON_NAME
from thinktwice.errors import DamagedDataError
from thinktwice.registry import DATASETS

ROUTE = 'town01_00/routes_a'
ROUTES = {ROUTE: 9, 'town01_01/routes_b': 7, 'town02_00/routes_c': 6}
SPLIT = {'towns': ['town01'], 'indices': ['00', '01']}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('dataset'), ROUTES)


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    """A dataset of its own for tests that damage it."""
    return write_dataset(tmp_path, {ROUTE: 9})


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def make(root: Path | str, **changes: Any) -> CarlaDataset:
    arguments: dict[str, Any] = {'data_root': root, 'pipeline': pipeline(), **changes}
    return CarlaDataset(**arguments)


def test_sample_has_the_agreed_fields_and_shapes(root: Path) -> None:
    config = {'type': 'CarlaDataset', 'data_root': str(root), 'pipeline': pipeline(), 'split': SPLIT}
    dataset = DATASETS.build(config)
    assert len(dataset) == (9 - 5) + (7 - 5)
    assert {dataset.sample_id(i)[:7] for i in range(6)} == {'town01_'}
    sample = dataset[0]
    shapes = {key: tuple(value.shape) for key, value in sample['inputs'].items()}
    assert shapes == {
        'img': (2, 2, 3, 4, 6),
        'points': (20 + 21, 5),
        'intrinsics': (2, 2, 3, 3),
        'cam2ego': (2, 2, 4, 4),
        'frame2key': (2, 4, 4),
        'ida_mats': (2, 2, 4, 4),
        'speed': (),
        'target_point': (2,),
        'command': (),
    }
    assert sample['inputs']['command'].dtype == torch.int64
    targets = sample['targets']
    assert targets['waypoints'].shape == (4, 2)
    assert [tuple(m.shape) for m in targets['grid_feature']] == list(tiny_dataset.MAP_SHAPES[2:])
    assert targets['future_grid_feature'].shape == (4, 32, 21, 21)
    assert targets['future_action_alpha'].shape == (3, 2)
    floats = [v for v in (*sample['inputs'].values(), *targets.values()) if torch.is_tensor(v)]
    assert {v.dtype for v in floats} == {torch.float32, torch.uint8, torch.int64}
    assert sample['metas']['sample_id'] == f'{ROUTE}/0001'
    assert sample['metas']['image_paths'][1] == str(root / ROUTE / 'rgb_left' / '0001.png')


@pytest.mark.parametrize(('num_frames', 'horizon'), [(1, 1), (3, 2)])
def test_queue_and_horizon_are_parameters(root: Path, num_frames: int, horizon: int) -> None:
    dataset = make(root, num_frames=num_frames, horizon=horizon)
    assert len(dataset) == sum(n - (num_frames - 1) - horizon for n in ROUTES.values())
    sample = dataset[0]
    assert sample['metas']['frame'] == num_frames - 1
    assert sample['inputs']['frame2key'].shape == (num_frames, 4, 4)
    assert sample['inputs']['points'].shape[1] == 5
    assert sample['targets']['waypoints'].shape == (horizon, 2)
    assert sample['targets']['future_action_beta'].shape == (horizon - 1, 2)


def test_without_targets_no_label_is_read_and_no_future_is_needed(own_root: Path) -> None:
    for path in (own_root / ROUTE / 'supervision').iterdir():
        path.unlink()
    dataset = make(own_root, with_targets=False, test_mode=True)
    assert len(dataset) == 8
    sample = dataset[7]
    assert 'targets' not in sample
    assert sample['metas']['test_mode'] is True


def test_randomness_depends_on_seed_epoch_and_index_alone(root: Path) -> None:
    dataset = make(root, seed=5)
    reference = dataset[SampleKey(3, 2)]
    dataset[SampleKey(1, 0)]
    assert equal(reference, dataset[SampleKey(3, 2)])
    assert equal(reference, make(root, seed=5)[SampleKey(3, 2)])
    others = [dataset[SampleKey(3, 1)], dataset[SampleKey(4, 2)], make(root, seed=6)[SampleKey(3, 2)]]
    for other in others:
        assert not torch.equal(other['inputs']['img'], reference['inputs']['img'])
        assert other['metas']['seed'] != reference['metas']['seed']
    assert equal(dataset[2], dataset[SampleKey(2, 0)])
    assert 0 <= reference['metas']['seed'] < 2**63
    torch.Generator().manual_seed(reference['metas']['seed'])


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_samples_are_equal_with_zero_one_and_three_workers(root: Path) -> None:
    def batches(workers: int) -> Iterator[dict[str, Any]]:
        dataset = make(root, seed=1)
        sampler = TrainSampler(dataset, batch_size=2, seed=1)
        loader = DataLoader(
            dataset,
            2,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 1,
            collate_fn=collate_samples,
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            yield from loader

    reference = list(batches(0))
    assert {meta['epoch'] for batch in reference for meta in batch['metas']} == {0, 1}
    for workers in (1, 3):
        assert equal(reference, list(batches(workers)))


def test_dataset_of_a_million_frames_travels_small(own_root: Path) -> None:
    record = {'frames': 205, 'usable': 205, 'rule': 'complete'}
    routes = {f'routes_town01_00_07_15_{i:06d}': record for i in range(5000)}
    tree = {'schema_version': 1, 'towns': {'town01_00': routes}}
    (own_root / JSON_NAME).write_text(json.dumps(tree))
    dataset = make(own_root)
    assert len(dataset) == 1_000_000
    data = pickle.dumps(dataset)
    assert len(data) < 500_000
    assert pickle.loads(data).sample_id(999_999) == dataset.sample_id(999_999)


def test_damaged_file_stops_a_strict_run_with_its_name(own_root: Path) -> None:
    path = own_root / ROUTE / 'lidar' / '0002.npy'
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SampleReadError, match=r'lidar/0002\.npy'):
        make(own_root, on_error='raise')[1]


def test_damaged_file_costs_one_sample_and_is_reported(own_root: Path) -> None:
    (own_root / ROUTE / 'supervision' / '0002.npy').unlink()  # key or future frame of samples 0 and 1
    dataset = make(own_root, on_error='skip')
    sample = dataset[1]
    metas = sample['metas']
    assert metas['requested_index'] == 1
    assert metas['index'] in (2, 3)
    skip = metas['skipped'][0]
    assert skip['sample_id'] == f'{ROUTE}/0002'
    assert skip['path'].endswith('supervision/0002.npy')
    assert equal(sample, make(own_root, on_error='skip')[1])
    assert dataset[2]['metas']['skipped'] == []


def test_nothing_readable_ends_with_an_error(own_root: Path) -> None:
    for path in (own_root / ROUTE / 'lidar').iterdir():
        path.write_bytes(b'')
    dataset = make(own_root, on_error='skip', max_replacements=3)
    message = rf'data_root {own_root}: 4 samples in a row .*lidar/\d+\.npy: .*tools/check_dataset\.py'
    with pytest.raises(DamagedDataError, match=message) as caught:
        dataset[0]
    with pytest.raises(DamagedDataError, match=message) as from_worker:
        next(iter(DataLoader(dataset, 1, num_workers=1, collate_fn=collate_samples)))
    assert str(from_worker.value) == str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('nan_frame', [0, 1, 5])
def test_sample_without_a_heading_is_replaced_under_any_policy(own_root: Path, nan_frame: int) -> None:
    write_dataset(own_root, {ROUTE: 9, 'town01_00/routes_b': 6})
    change_measurements(own_root, ROUTE, nan_frame, theta=float('nan'))
    sample = make(own_root, on_error='raise')[0]
    [skip, *_] = sample['metas']['skipped']
    assert skip['path'].endswith(f'measurements/{nan_frame:04d}.json')
    assert 'theta is NaN' in skip['reason']
    assert sample['metas']['index'] != 0


def test_invalid_frames_of_the_metadata_are_left_out(own_root: Path) -> None:
    tree = json.loads((own_root / JSON_NAME).read_text())
    tree['towns']['town01_00']['routes_a']['invalid_frames'] = [0]
    (own_root / JSON_NAME).write_text(json.dumps(tree))
    dataset = make(own_root)
    assert [dataset.sample_id(i)[-4:] for i in range(len(dataset))] == ['0002', '0003', '0004']


def test_tally_counts_and_names_replaced_samples(own_root: Path, tmp_path: Path) -> None:
    (own_root / ROUTE / 'lidar' / '0000.npy').unlink()
    change_measurements(own_root, ROUTE, 2, target_command=-1)
    dataset = make(own_root, on_error='skip')
    tally = SkippedSampleTally()
    batch = collate_samples([dataset[i] for i in range(3)])
    tally.update(batch['metas'])
    tally.update([dataset[3]['metas']])
    replaced = [dataset[i]['metas'] for i in range(4)]
    assert tally.num_samples == 4
    assert tally.num_skips == sum(len(metas['skipped']) for metas in replaced)
    assert tally.num_unknown_commands == sum(metas['command_replaced'] for metas in replaced) >= 1
    assert any('lidar/0000.npy' in example for example in tally.examples())
    tally.write(tmp_path / 'skipped.txt')
    assert [json.loads(line)['sample_id'] for line in (tmp_path / 'skipped.txt').open()] == [f'{ROUTE}/0001']
    tally.reset()
    assert tally.num_samples == 0


def test_tally_names_a_file_that_two_samples_share_once(own_root: Path) -> None:
    (own_root / ROUTE / 'supervision' / '0002.npy').unlink()  # needed by the samples 0 and 1
    dataset = make(own_root, on_error='skip')
    tally = SkippedSampleTally()
    tally.update([dataset[0]['metas'], dataset[1]['metas']])
    assert len(tally.skipped) == 2
    [example] = tally.examples()
    assert 'supervision/0002.npy' in example


def test_measurements_may_begin_with_a_byte_order_mark(own_root: Path) -> None:
    expected = make(own_root)[0]
    path = own_root / ROUTE / 'measurements' / '0001.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    assert equal(make(own_root)[0]['inputs'], expected['inputs'])


def test_missing_dataset_says_where_data_belongs(tmp_path: Path) -> None:
    missing = tmp_path / 'nothing'
    with pytest.raises(FileNotFoundError, match=r'nothing.*data_root.*record_minitown\.py') as caught:
        make(missing)
    assert str(missing) in str(caught.value)


def test_relative_root_is_resolved_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    dataset = make(Path(root.name))
    monkeypatch.chdir('/')
    assert dataset[0]['metas']['frame'] == 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_frames': 0}, 'num_frames must be >= 1'),
        ({'horizon': 0}, 'horizon must be >= 1'),
        ({'seed': -1}, 'seed must be >= 0'),
        ({'on_error': 'ignore'}, "'raise' or 'skip'"),
        ({'split': {'towns': ['town09'], 'indices': ['00']}}, 'town01_00.*town09_00'),
        ({'split': {**SPLIT, 'caps': 0}}, 'has no samples'),
        ({'split': {**SPLIT, 'town': []}}, "split has no key 'town'"),
        ({'pipeline': [dict(type='LoadMeasurements'), 7]}, 'pipeline.1 must be a dict with a type, got 7'),
    ],
)
def test_bad_arguments_are_named(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(root, **changes)


def test_collate_stacks_everything_but_clouds(root: Path) -> None:
    dataset = make(root)
    samples = [dataset[0], dataset[1], dataset[5]]
    batch = collate_samples(samples)
    assert batch['inputs']['img'].shape == (3, 2, 2, 3, 4, 6)
    assert batch['inputs']['speed'].shape == (3,)
    assert isinstance(batch['inputs']['points'], list)
    assert all(
        equal(a, b['inputs']['points']) for a, b in zip(batch['inputs']['points'], samples, strict=True)
    )
    grid = batch['targets']['grid_feature']
    assert [tuple(level.shape) for level in grid] == [(3, *shape) for shape in tiny_dataset.MAP_SHAPES[2:]]
    assert torch.equal(grid[1][2], samples[2]['targets']['grid_feature'][1])
    assert batch['metas'][2] is samples[2]['metas']


def test_collate_refuses_samples_that_do_not_match(root: Path) -> None:
    first, second = make(root)[0], make(root)[1]
    second['inputs']['img'] = second['inputs']['img'][..., :-1]
    with pytest.raises(ValueError, match=r'inputs\.img has different sizes'):
        collate_samples([first, second])
    del second['targets']
    with pytest.raises(ValueError, match='some have none'):
        collate_samples([first, second])


def test_numbers_match_the_files(root: Path) -> None:
    """Waypoints and target from explicit trigonometry on the recorded measurements."""
    sample = make(root)[1]
    key = tiny_dataset.measurements_of(2)
    for k, waypoint in enumerate(sample['targets']['waypoints']):
        future = tiny_dataset.measurements_of(3 + k)
        north, east = future['x'] - key['x'], future['y'] - key['y']
        forward = north * np.cos(key['theta']) + east * np.sin(key['theta'])
        right = -north * np.sin(key['theta']) + east * np.cos(key['theta'])
        np.testing.assert_allclose(waypoint, [forward, right], atol=1e-5)
    assert sample['inputs']['speed'] == pytest.approx(key['speed'])
    assert sample['inputs']['command'] == key['target_command'] - 1


def test_dataset_served_over_http_gives_the_same_samples(root: Path) -> None:
    handler = partial(QuietHandler, directory=str(root))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            remote = make(f'http://127.0.0.1:{server.server_port}')
            assert len(remote) == len(make(root))
            sample, local = remote[1], make(root)[1]
            with pytest.raises(SampleReadError, match=r'http://.*lidar/0777\.npy'):
                remote.storage.route(*ROUTE.split('/')).points(777)
        finally:
            server.shutdown()
            thread.join()
    for group in ('inputs', 'targets'):
        assert equal(sample[group], local[group])


def test_runner_builds_the_loader_of_a_config(root: Path) -> None:
    init_default_scope('thinktwice')
    config = {
        'batch_size': 2,
        'num_workers': 0,
        'dataset': {'type': 'CarlaDataset', 'data_root': str(root), 'pipeline': pipeline(), 'split': SPLIT},
        'sampler': {'type': 'TrainSampler', 'batch_size': 2},
        'collate_fn': {'type': 'thinktwice.collate_samples'},
    }
    loader = Runner.build_dataloader(config, seed=3)
    assert loader.sampler.seed == 3
    batches = list(loader)
    assert [len(batch['metas']) for batch in batches] == [2, 2, 2]
