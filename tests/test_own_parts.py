"""The parts that docs/models.md adds from outside the package train, are evaluated and drive."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import REPOSITORY, command

from thinktwice.apis import test as evaluate
from thinktwice.apis import train
from thinktwice.minitown import record
from thinktwice.registry import METRICS, MODELS

GUIDE = (REPOSITORY / 'docs' / 'models.md').read_text(encoding='utf-8')
MODULES = ('my_planner', 'my_encoder', 'my_loss', 'my_metric')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of the page, in a folder of their own that is on the path, and drives."""
    folder = tmp_path_factory.mktemp('mine')
    for name, text in re.findall(r'`(my_\w+\.py)`:\n\n```python\n(.*?)```', GUIDE, flags=re.DOTALL):
        (folder / name).write_text(text.replace("'configs/", f"'{REPOSITORY}/configs/"))
    for name, text in re.findall(r'`(my_\w+_minitown\.py)`.*?```python\n(.*?)```', GUIDE, flags=re.DOTALL):
        (folder / name).write_text(text.replace("'configs/", f"'{REPOSITORY}/configs/"))
    record(folder / 'data', routes=2, frames=8, size=(48, 64), towns=['town01_00', 'town02_00'])
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in MODULES:
        sys.modules.pop(name, None)
    for registry, names in (
        (MODELS, ('BEVQueryPlanner', 'OccupancyEncoder', 'LateralLoss')),
        (METRICS, ('JerkMetric',)),
    ):
        for name in names:
            registry.module_dict.pop(name, None)


def train_evaluate_and_drive(folder: Path, name: str, out: Path) -> tuple[str, dict[str, float]]:
    """Logged values of a training of two steps, and the metrics of its checkpoint."""
    config = folder / name
    options: dict[str, Any] = {
        'data_root': str(folder / 'data'),
        'batch_size': 3,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'data_modes.default.default_hooks.logger.interval': 1,
    }
    checkpoint = train(config, work_dir=out / 'run', cfg_options={**options, 'train_cfg.max_iters': 2})
    assert checkpoint is not None
    metrics = evaluate(config, checkpoint, work_dir=out / 'test', cfg_options=options)
    flags = ['--routes', '1', '--length', '5', '--processes', '1', '--out', str(out / 'results.json')]
    drive = command('tools/drive_minitown.py')
    data = f'data_root={folder / "data"}'
    assert drive([str(config), str(checkpoint), *flags, '--cfg-options', data]) == 0
    assert (out / 'results.json').is_file()
    return next((out / 'run').glob('*/vis_data/scalars.json')).read_text(), metrics


@pytest.mark.slow
def test_the_planner_of_the_page_trains_is_evaluated_and_drives(folder: Path, tmp_path: Path) -> None:
    logged, metrics = train_evaluate_and_drive(folder, 'my_planner_minitown.py', tmp_path)
    assert '"train/wp_loss"' in logged and '"train/BEV_feature_loss2"' in logged
    assert metrics['open_loop/ade'] > 0 and 'open_loop/current_steer_offset' not in metrics


@pytest.mark.slow
def test_all_parts_of_the_page_work_together(folder: Path, tmp_path: Path) -> None:
    logged, metrics = train_evaluate_and_drive(folder, 'my_parts_minitown.py', tmp_path)
    assert '"train/wp_loss"' in logged and '"train/lateral_loss"' in logged
    assert 'depth_loss' not in logged
    assert metrics['open_loop/ade'] > 0 and metrics['comfort/jerk'] > 0


def test_the_encoder_of_the_page_sees_a_point_where_it_is(folder: Path) -> None:
    import my_encoder

    bounds = {'x_bounds': (-8.0, 30.4, 1.6), 'y_bounds': (-19.2, 19.2, 1.6), 'z_bounds': (0.3, 3.3, 3.0)}
    encoder = my_encoder.OccupancyEncoder(bounds, channels=1)
    encoder.layers = torch.nn.Identity()
    clouds = [torch.tensor([[30.0, -19.0, 1.0, 0, 0], [0.0, 0.0, 0.1, 0, 0]]), torch.zeros(0, 5)]
    bev_map = encoder({'points': clouds}).bev_map
    assert bev_map.shape == (2, 1, 24, 24)
    assert bev_map.nonzero().tolist() == [
        [0, 0, 0, 0]
    ]  # farthest ahead, leftmost; the other is on the ground


def test_the_loss_and_the_metric_of_the_page_are_right(folder: Path) -> None:
    import my_loss
    import my_metric

    plans = torch.zeros(2, 3, 4, 2)
    targets = torch.zeros(2, 4, 2)
    targets[0, :, 0], targets[0, 1, 1] = 5.0, 2.0
    losses = my_loss.LateralLoss(weight=3.0)({'pred_waypoints': plans}, {'waypoints': targets})
    assert losses['lateral_loss'] == pytest.approx(3 * 2 / 8)

    metric = my_metric.JerkMetric()
    steady = torch.tensor([[1.0, 0], [4, 0], [9, 0], [16, 0]])  # constant acceleration
    jerky = torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 0]])
    samples = [{'waypoints': plan} for plan in (steady, jerky)]
    metric.process({'metas': [{'index': 0}, {'index': 1}]}, samples)
    assert metric.evaluate(2) == {'comfort/jerk': pytest.approx(1 / 0.125 / 2)}
