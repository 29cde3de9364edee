"""The planner of docs/models.md, in a file outside the package, trains, is evaluated and drives."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import REPOSITORY, command

from thinktwice.apis import test as evaluate
from thinktwice.apis import train
from thinktwice.minitown import record

TEXT = (REPOSITORY / 'docs' / 'models.md').read_text()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two files of the page, in a folder of their own that is on the path."""
    planner, config = re.findall(r'```python\n(.*?)```', TEXT, flags=re.DOTALL)
    (tmp_path / 'my_planner.py').write_text(planner)
    path = tmp_path / 'my_planner_minitown.py'
    path.write_text(config.replace("'configs/", f"'{REPOSITORY}/configs/"))
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop('my_planner', None)


@pytest.mark.slow
def test_the_planner_of_the_page_trains_is_evaluated_and_drives(config, tmp_path) -> None:
    data = tmp_path / 'data'
    record(data, routes=2, frames=8, size=(48, 64), towns=['town01_00', 'town02_00'])
    options = {
        'data_root': str(data),
        'batch_size': 3,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'data_modes.default.default_hooks.logger.interval': 1,
    }
    checkpoint = train(config, work_dir=tmp_path / 'run', cfg_options={**options, 'train_cfg.max_iters': 2})
    logged = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text()
    assert '"train/wp_loss"' in logged and '"train/BEV_feature_loss2"' in logged
    metrics = evaluate(config, checkpoint, work_dir=tmp_path / 'test', cfg_options=options)
    assert metrics['open_loop/ade'] > 0 and 'open_loop/current_steer_offset' not in metrics
    flags = ['--routes', '1', '--length', '5', '--processes', '1', '--out', str(tmp_path / 'results.json')]
    drive = command('tools/drive_minitown.py')
    assert drive([str(config), str(checkpoint), *flags, '--cfg-options', f'data_root={data}']) == 0
    assert (tmp_path / 'results.json').is_file()
