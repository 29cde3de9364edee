"""What a training writes for TensorBoard: pictures, values, hyperparameters and the layout of the charts."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.commands import REPOSITORY, command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from thinktwice.apis import test as evaluate
from thinktwice.apis import train
from thinktwice.core.visualization import colors
from thinktwice.core.visualization.backends import LAYOUT
from thinktwice.minitown import record

TOY = REPOSITORY / 'tests' / 'helpers' / 'toy_config.py'
MINITOWN = REPOSITORY / 'configs' / 'thinktwice_minitown.py'
BACKENDS = (('WandbVisBackend', 'wandb'), ('MLflowBackend', 'mlflow'))
PICTURES = [f'val_sample_{number}' for number in (1, 2, 3, 4)]


def read_events(work_dir: Path) -> EventAccumulator:
    (folder,) = work_dir.glob('*/vis_data')
    events = EventAccumulator(str(folder), size_guidance={'images': 0, 'scalars': 0, 'tensors': 0})
    return events.Reload()


def shown_pictures(events: EventAccumulator, name: str) -> list[np.ndarray]:
    contents = [np.frombuffer(event.encoded_image_string, np.uint8) for event in events.Images(name)]
    return [cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) for content in contents]


@pytest.fixture(scope='module', autouse=True)
def toy_parts() -> Iterator[None]:
    """The config of the toy imports its parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY.parent)
        yield


@pytest.fixture(scope='module')
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('toy')
    train(TOY, work_dir=folder, cfg_options={'train_cfg.max_epochs': 2})
    return folder


def test_the_same_samples_are_drawn_at_each_evaluation(toy_run):
    events = read_events(toy_run)
    assert sorted(events.Tags()['images']) == PICTURES
    assert [event.step for event in events.Images('val_sample_1')] == [1, 2]
    titles = []
    for name in PICTURES:
        first, second = shown_pictures(events, name)
        assert np.array_equal(first[:50], second[:50])  # name and speed
        assert not np.array_equal(first, second)  # the model has learned
        assert (first == colors.TRUE).all(axis=-1).any()
        titles.append(first[:50].tobytes())
    assert len(set(titles)) == len(PICTURES)
    files = {path.name for path in toy_run.glob('*/vis_data/vis_image/*.png')}
    assert files == {f'{name}_{epoch}.png' for name in PICTURES for epoch in (1, 2)}


def test_values_of_the_training_are_written(toy_run):
    events = read_events(toy_run)
    memory = 'memory' if torch.cuda.is_available() else 'train/memory'
    names = ('lr', 'loss', 'grad_norm', 'time', 'data_time', 'samples_per_second')
    for name in (memory, *(f'train/{name}' for name in names)):
        assert all(np.isfinite(event.value) for event in events.Scalars(name))
    assert len(events.Scalars('val/open_loop/ade')) == 2


def test_hyperparameters_are_those_of_the_config(toy_run):
    metadata = read_events(toy_run).SummaryMetadata('_hparams_/session_start_info')
    data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    values = data.session_start_info.hparams
    assert values['optim_wrapper.optimizer.lr'].number_value == 0.01
    assert values['optim_wrapper.optimizer.type'].string_value == 'AdamW'
    assert values['train_dataloader.batch_size'].number_value == 4
    assert values['train_cfg.max_epochs'].number_value == 2
    assert values['world_size'].number_value == 1
    assert 'ema_momentum' not in values  # it has none


def test_charts_are_grouped(toy_run):
    (event,) = read_events(toy_run).Tensors('custom_scalars__config__')
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }
    assert charts == LAYOUT


def test_no_pictures_are_drawn_of_a_model_without_waypoints_or_if_none_are_wanted(tmp_path):
    hooks = [dict(type='PicturesHook', count=0)]
    train(TOY, work_dir=tmp_path, cfg_options={'train_cfg.max_epochs': 1, 'custom_hooks': hooks})
    assert read_events(tmp_path).Tags()['images'] == []


def test_reliance_is_written(toy_run, tmp_path):
    metrics = evaluate(TOY, toy_run / 'epoch_2.pth', work_dir=tmp_path, reliance=True)
    events = read_events(tmp_path)
    for name in ('open_loop/ade', 'reliance/speed/open_loop/ade'):
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(metrics[name])


def config_with_backend(folder: Path, backend: str) -> Path:
    config = folder / f'{backend}.py'
    backends = f"[dict(type='LocalVisBackend'), dict(type='{backend}')]"
    config.write_text(f"_base_ = ['{TOY}']\nvisualizer = dict(vis_backends={backends})\n")
    return config


@pytest.mark.parametrize(('backend', 'package'), BACKENDS)
def test_a_backend_that_is_not_installed_is_named_in_one_line(
    tmp_path, capsys, monkeypatch, backend, package
):
    monkeypatch.setitem(sys.modules, package, None)
    config = config_with_backend(tmp_path, backend)
    assert command('train.py')([str(config), '--work-dir', str(tmp_path / 'run')]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert f'pip install {package}' in line


def test_a_run_is_written_for_weights_and_biases(tmp_path, monkeypatch):
    pytest.importorskip('wandb', reason='needs wandb: pip install wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    train(config_with_backend(tmp_path, 'WandbVisBackend'), work_dir=tmp_path / 'run')
    (file,) = tmp_path.glob('run/*/vis_data/wandb/offline-run-*/run-*.wandb')
    assert b'open_loop/ade' in file.read_bytes()
    pictures = tmp_path.glob('run/*/vis_data/wandb/offline-run-*/files/media/images/val_sample_1_*.png')
    assert len(list(pictures)) == 3  # evaluations


def test_a_run_is_written_for_mlflow(tmp_path):
    pytest.importorskip('mlflow', reason='needs mlflow: pip install mlflow')
    from mlflow import MlflowClient

    train(config_with_backend(tmp_path, 'MLflowBackend'), work_dir=tmp_path / 'run')
    (database,) = tmp_path.glob('run/*/vis_data/mlflow.db')
    client = MlflowClient(f'sqlite:///{database}')
    (experiment,) = [item for item in client.search_experiments() if item.name == 'thinktwice']
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params['optim_wrapper.optimizer.lr'] == '0.01'
    history = client.get_metric_history(run.info.run_id, 'val/open_loop/ade')
    assert [metric.step for metric in history] == [1, 2, 3]
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {'val_sample_1_1.png', 'val_sample_1_3.png'} <= names


@pytest.mark.slow
def test_each_chart_of_the_layout_has_values_in_a_training_of_the_town(tmp_path):
    record(tmp_path / 'town', routes=2, frames=8, size=(48, 64), towns=['town01_00', 'town02_00'])
    options = {
        'data_root': str(tmp_path / 'town'),
        'batch_size': 2,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'train_cfg.max_iters': 2,
    }
    train(MINITOWN, work_dir=tmp_path / 'run', cfg_options=options)
    events = read_events(tmp_path / 'run')
    names = events.Tags()['scalars']
    later = {'skipped steps', 'ADE with an input of other samples, meters'}
    for group in LAYOUT.values():
        for title, patterns in group.items():
            for pattern in patterns if title not in later else ():
                assert any(re.match(pattern, name) for name in names), (title, pattern)
    for name in PICTURES:
        (picture,) = shown_pictures(events, name)
        assert picture.shape[1] > 1500  # with the cameras
