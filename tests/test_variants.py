"""Each shipped variant of sensors, labels and planners trains, is evaluated and predicts."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import REPOSITORY, command
from helpers.ranks import run_train, start_ranks

from thinktwice.apis import draw_sample, init_dataset, init_model, predict, train
from thinktwice.apis import test as evaluate
from thinktwice.core.runner import DrivingRunner
from thinktwice.errors import ConfigError, StartError
from thinktwice.minitown import CameraRig, record
from thinktwice.minitown.recording import dataset as recording
from thinktwice.minitown.sensors.cameras import CARLA_CAMERAS, Camera

CONFIGS = REPOSITORY / 'configs'
PLANNERS = ('ego_mlp_minitown', 'tcp_minitown', 'transfuser_minitown')
STAGES = ('thinktwice_minitown_stage1', 'thinktwice_minitown_stage2')
FILES = sorted((CONFIGS / 'variants').glob('*.py'))
VARIANTS = [*PLANNERS, *STAGES, *(f'variants/{path.stem}' for path in FILES)]
WITHOUT_ACTIONS = ('transfuser_minitown',)
STEPS = ['${load_measurements}', '${load_points}', '${load_cameras}', '${load_waypoints}']
NO_WAYPOINTS = [*STEPS[:3], {'type': 'PackSample'}]
NO_POINTS = [STEPS[0], *STEPS[2:], {'type': 'PackSample'}]
SIX_CAMERAS = (*CARLA_CAMERAS, Camera('front_left', (1.0, -0.3, 2.5), -0.9), Camera('aft', (-1, 0, 2.5), 2.0))


@pytest.fixture(scope='module')
def towns(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Datasets by their number of cameras."""
    folder = tmp_path_factory.mktemp('towns')
    options: dict[str, Any] = dict(routes=2, frames=8, size=(48, 64), towns=['town01_00', 'town02_00'])
    record(folder / 'four', **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, 'CameraRig', partial(CameraRig, cameras=SIX_CAMERAS))
        record(folder / 'six', **options)
    return {4: folder / 'four', 6: folder / 'six'}


def options_for(name: str, towns: dict[int, Path]) -> dict[str, Any]:
    if name == 'variants/timm_backbone':
        pytest.importorskip('timm', reason='needs timm: pip install thinktwice[timm]')
    return {
        'data_root': str(towns[6 if name == 'variants/six_cameras' else 4]),
        'batch_size': 2,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'train_cfg.max_iters': 2,
    }


@pytest.mark.slow
@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_trains_is_evaluated_and_predicts(name, towns, tmp_path) -> None:
    config, options = CONFIGS / f'{name}.py', options_for(name, towns)
    checkpoint = train(config, work_dir=tmp_path, cfg_options=options)
    assert checkpoint is not None
    metrics = evaluate(config, checkpoint, work_dir=tmp_path / 'test', cfg_options=options)
    assert metrics['open_loop/ade'] > 0
    assert ('open_loop/current_steer_offset' in metrics) == (name not in WITHOUT_ACTIONS)

    model = init_model(config, checkpoint, 'cpu', options)
    sample = init_dataset(config, 'val', options)[0]
    prediction = predict(model, sample)
    assert prediction['waypoints'].shape == (4, 2)
    assert ('action' in prediction) == (name not in WITHOUT_ACTIONS)
    assert draw_sample(sample, prediction).ndim == 3


@pytest.mark.slow
@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_trains_on_two_ranks(name, towns, tmp_path) -> None:
    options = {**options_for(name, towns), 'batch_size': 1, 'default_hooks.checkpoint.keep_best': None}
    flags = [f'--work-dir={tmp_path / "run"}', '--launcher=pytorch', '--no-validate', '--cfg-options']
    values = [f'{key}={value}' for key, value in options.items()]
    ranks = start_ranks(run_train, ([str(CONFIGS / f'{name}.py'), *flags, *values],), 2, tmp_path / 'ranks')
    assert ranks.results() == [0, 0]
    assert list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [*PLANNERS, 'variants/six_cameras', 'variants/one_camera'])
def test_a_variant_drives(name, towns, tmp_path) -> None:
    config, options = str(CONFIGS / f'{name}.py'), options_for(name, towns)
    torch.save(init_model(config, device='cpu', cfg_options=options).state_dict(), tmp_path / 'random.pth')
    flags = ['--routes', '1', '--length', '5', '--processes', '1', '--out', str(tmp_path / 'results.json')]
    drive = command('tools/drive_minitown.py')
    data = f'data_root={options["data_root"]}'
    assert drive([config, str(tmp_path / 'random.pth'), *flags, '--cfg-options', data]) == 0
    assert (tmp_path / 'results.json').is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.lidar_encoder': None}, 'bev_fusion is given no lidar map'),
        ({'load_points': None}, 'lidar_encoder reads points'),
        (
            {'load_cameras': None, 'model.losses.depth': None, 'model.losses.segmentation': None},
            'img_encoder reads img',
        ),
        (
            {'model.lidar_encoder': None, 'model.bev_fusion.lidar_channels': None},
            'ThinkTwiceDecoder reads lidar_map',
        ),
        ({'model.bev_fusion': None}, 'flatten_head needs bev_fusion'),
        ({'model.img_encoder.seg_head': None}, 'seg_branch reads the logits of seg_head'),
        ({'load_supervision.with_features': False}, r'feature \(for FeatureLoss, BEVFeatureLoss'),
        ({'load_cameras.with_labels': False}, r'depth \(for DepthLoss\)'),
        (
            {'model.img_encoder.seg_head': None, 'model.img_encoder.seg_branch': None},
            'losses.segmentation reads seg_logits',
        ),
        ({'load_measurements': None}, "LoadPoints reads 'ego_poses', which no step before it adds"),
        ({'cameras': ['front', 'left']}, 'num_cameras=4, but the samples hold 2 cameras'),
        ({'image_size': (60, 100)}, r'image_size=\(60, 100\).* the nearest size is'),
        ({'train_dataloader.dataset.num_frames': 1}, 'samples hold 1 frames, but the camera encoder'),
        ({'model.decoder.num_steps': 6}, 'the targets hold 4 future steps'),
        ({'model.flatten_head.out_channels': 128}, r'set model\.decoder\.vector_channels=128'),
        ({'model.decoder.coarse_head.feature_channels': 128}, r'target feature is \(2, 256\)'),
        ({'model.decoder.x_range': (-8.0, 28.0)}, r'model\.decoder\.x_range is \(-8.0, 28.0\) m along x'),
        ({'model.bev_fusion.camera_channels': 32}, r'model\.bev_fusion\.camera_conv\.0, Conv2d\(32, 32'),
        ({'val_dataloader.dataset.pipeline': NO_WAYPOINTS}, 'reads the label waypoints'),
        ({'val_dataloader.dataset.pipeline': NO_POINTS}, 'lidar_encoder reads points'),
    ],
)
def test_what_does_not_fit_together_ends_before_training(
    options, message, towns, tmp_path, monkeypatch
) -> None:
    config = CONFIGS / 'thinktwice_minitown.py'
    monkeypatch.setattr(DrivingRunner, 'train', lambda runner: pytest.fail('training has started'))
    with pytest.raises((ConfigError, StartError), match=message):
        train(config, work_dir=tmp_path, cfg_options={**options_for('', towns), **options})
