"""Samples of recorded drives: LiDAR, depth, poses and waypoints tell of one and the same world."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_dataset import equal
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from thinktwice.config.load import load_config
from thinktwice.core.visualization import draw_sample
from thinktwice.core.visualization.data import browse_picture
from thinktwice.datasets import CarlaDataset, SampleKey, collate_samples
from thinktwice.datasets.metadata import load_metadata
from thinktwice.datasets.route_scan import needed_folders, read_results, scan_dataset
from thinktwice.errors import ConfigError
from thinktwice.minitown import record
from thinktwice.registry import DATASETS, MODELS

MINITOWN = Path(__file__).resolve().parents[2] / 'configs' / 'thinktwice_minitown.py'
IMAGE_SIZE = (96, 192)
FRAMES = 12


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('recorded')
    record(path / 'town', routes=1, frames=FRAMES, seed=3, size=(120, 214), towns=['town01_00'])
    return path / 'town'


def make(root: Path, training: bool, cameras: Sequence[str] | None = None, **changes: Any) -> CarlaDataset:
    pipeline = [
        {'type': 'LoadMeasurements'},
        {'type': 'LoadPoints'},
        {'type': 'LoadCameras', 'image_size': IMAGE_SIZE, 'training': training, 'cameras': cameras},
        {'type': 'LoadWaypoints'},
        {'type': 'LoadSupervision'},
        {'type': 'PackSample'},
    ]
    return CarlaDataset(root, pipeline, **changes)


def compare_with_depth_label(points: np.ndarray, sample: dict[str, Any], camera: int) -> tuple[float, float]:
    """Shares of the points in view that lie on the depth label, and in front of it.

    On it: between the labels around the pixel. Points behind it are hidden from the camera, which
    does not stand where the LiDAR stands.
    """
    inputs, depth = sample['inputs'], sample['targets']['depth'][camera].numpy()
    ego2cam = np.linalg.inv(inputs['cam2ego'][-1, camera].double().numpy())
    seen = points[:, :3].astype(np.float64) @ ego2cam[:3, :3].T + ego2cam[:3, 3]
    seen = seen[seen[:, 2] > 1.0]
    pixel = seen @ inputs['intrinsics'][-1, camera].double().numpy().T
    pixel = pixel[:, :2] / pixel[:, 2:]
    ida = inputs['ida_mats'][-1, camera].double().numpy()
    pixel = pixel @ ida[:2, :2].T + ida[:2, 3]
    column, row = np.rint(pixel).astype(int).T
    inside = (column >= 1) & (column < depth.shape[1] - 1) & (row >= 1) & (row < depth.shape[0] - 1)
    column, row, true_depth = column[inside], row[inside], seen[inside, 2]
    assert inside.sum() > 100
    around = np.stack([depth[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    in_front = true_depth < around.min(0) * 0.98 - 0.05
    behind = true_depth > around.max(0) * 1.02 + 0.05
    return float((~in_front & ~behind).mean()), float(in_front.mean())


@pytest.mark.parametrize('training', [False, True], ids=['test crop', 'random crop and flip'])
def test_lidar_hits_the_pixels_whose_depth_it_has(root: Path, training: bool) -> None:
    dataset = make(root, training)
    for index in (0, 4):
        sample = dataset[index]
        points = sample['inputs']['points'].numpy()
        key = points[points[:, 4] == 0]
        for camera in range(len(dataset.calibration.cameras)):
            on_label, in_front = compare_with_depth_label(key, sample, camera)
            assert on_label > 0.9
            assert in_front < 0.02


def test_history_points_agree_with_the_key_frame_depth(root: Path) -> None:
    """Only moving vehicles and walkers may differ; without the alignment hardly a wall fits."""
    dataset = make(root, training=False)
    index = max(range(len(dataset)), key=lambda i: float(dataset[i]['inputs']['speed']))
    sample = dataset[index]
    points = sample['inputs']['points'].numpy()
    history = points[points[:, 4] == -1].astype(np.float64)
    frame2key = sample['inputs']['frame2key'][0].double().numpy()
    unaligned = (history[:, :3] - frame2key[:3, 3]) @ frame2key[:3, :3]
    standing = history[:, 2] > 0.3  # the flat ground fits however it is shifted
    aligned, _ = compare_with_depth_label(history[standing], sample, 0)
    assert aligned > 0.8
    assert compare_with_depth_label(unaligned[standing], sample, 0)[0] < aligned - 0.1


def test_waypoints_are_where_the_next_frames_come_from(root: Path) -> None:
    """The pose of frame t + 1 in frame t, read from the next sample's history alignment."""
    dataset = make(root, training=False)
    samples = [dataset[i] for i in range(len(dataset))]
    for now, following in zip(samples[:-1], samples[1:], strict=True):
        key2next = following['inputs']['frame2key'][0].double()
        next_origin = torch.linalg.inv(key2next)[:2, 3]
        np.testing.assert_allclose(now['targets']['waypoints'][0], next_origin, atol=1e-4)
    speeds = torch.stack([s['inputs']['speed'] for s in samples])
    assert speeds.max() > 1.0, 'the drive stands still, the checks above prove nothing'


def test_speed_agrees_with_the_distance_driven(root: Path) -> None:
    dataset = make(root, training=False)
    for now, following in ((dataset[i], dataset[i + 1]) for i in range(len(dataset) - 1)):
        driven = float(now['targets']['waypoints'][0].norm()) / dataset.calibration.frame_interval
        mean_speed = float(now['inputs']['speed'] + following['inputs']['speed']) / 2
        assert driven == pytest.approx(mean_speed, abs=0.6)


def test_batches_of_recorded_samples_have_the_agreed_layout(root: Path) -> None:
    dataset = make(root, training=True)
    batch = collate_samples([dataset[0], dataset[1]])
    cameras = len(dataset.calibration.cameras)
    inputs, targets = batch['inputs'], batch['targets']
    assert inputs['img'].shape == (2, 2, cameras, 3, *IMAGE_SIZE)
    assert inputs['img'].dtype == torch.uint8
    assert targets['depth'].shape == targets['seg'].shape == (2, cameras, *IMAGE_SIZE)
    assert targets['seg'].dtype == torch.uint8
    assert targets['feature'].shape == (2, 256)
    assert (targets['action_alpha'] > 0).all()
    assert inputs['command'].min() >= 0
    assert inputs['command'].max() <= 5


def test_recorder_and_generator_agree_on_the_metadata(root: Path) -> None:
    dataset = make(root, training=False)
    results = read_results(root / 'collect_data_json')
    scan = scan_dataset(root, needed_folders(dataset.calibration), results)
    assert scan.metadata == load_metadata(dataset.storage, str(root))
    assert not scan.malformed


def test_some_cameras_give_their_entries_of_the_whole_sample(root: Path) -> None:
    whole = make(root, training=True, test_mode=True, seed=2)
    names = [camera.name for camera in whole.calibration.cameras]
    chosen = [names.index(name) for name in ('right', 'front', 'left')]
    dataset = make(root, training=True, test_mode=True, seed=2, cameras=('right', 'front', 'left'))
    assert dataset.metainfo['cameras'] == ['right', 'front', 'left']
    expected, sample = whole[SampleKey(3, 1)], dataset[SampleKey(3, 1)]
    for key in ('img', 'intrinsics', 'cam2ego', 'ida_mats'):
        expected['inputs'][key] = expected['inputs'][key][:, chosen]
    for key in ('depth', 'seg'):
        expected['targets'][key] = expected['targets'][key][chosen]
    paths = expected['metas']['image_paths']
    expected['metas']['image_paths'] = [paths[index] for index in chosen]
    assert equal(sample, expected)
    with pytest.raises(ConfigError, match='front, left, right, back'):
        make(root, training=True, cameras=('front', 'top'))


def test_a_model_of_three_cameras_trains_on_data_of_four(root: Path) -> None:
    options = {
        'num_cameras': 3,
        'cameras': ['front', 'left', 'right'],
        'is_dev': True,
        'data_root': str(root),
    }
    cfg = load_config(str(MINITOWN), options)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build(loader.dataset)
        assert dataset.metainfo['cameras'] == options['cameras']
    samples = [dataset[0], dataset[1]]
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
    assert model.train_step(collate_samples(samples), wrapper)['loss'].isfinite()
    with torch.no_grad():
        prediction = model.eval().val_step(collate_samples(samples))[0]
    for picture in (draw_sample(samples[0], prediction), browse_picture(samples[0], samples[1])):
        assert picture.dtype == np.uint8
