"""The dataset that docs/data_formats.md adds from outside the package, as it is printed there."""

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.commands import REPOSITORY, command
from helpers.tiny_dataset import CAMERAS, SIZE, measurements_of, supervision_of, write_dataset

from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.labels import compact_depth
from thinktwice.datasets.storage import DatasetStorage
from thinktwice.errors import DamagedDataError

GUIDE = REPOSITORY / 'docs' / 'data_formats.md'
FRAMES = 9
PIPELINE = [
    {'type': 'LoadMeasurements'},
    {'type': 'LoadPoints'},
    {'type': 'LoadCameras', 'image_size': (16, 32), 'training': True},
    {'type': 'LoadWaypoints'},
    {'type': 'PackSample'},
]


def printed(name: str) -> str:
    """A file that the guide prints."""
    found = re.search(rf'```python\n# {name}\n(.*?)```', GUIDE.read_text(encoding='utf-8'), re.DOTALL)
    assert found, name
    return found[1]


@pytest.fixture(scope='module')
def my_drives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module of the guide, imported from a folder of its own on the path."""
    folder = tmp_path_factory.mktemp('module')
    (folder / 'my_drives.py').write_text(printed('my_drives.py'))
    sys.path.insert(0, str(folder))
    yield importlib.import_module('my_drives')
    sys.path.remove(str(folder))
    del sys.modules['my_drives']


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recorded dataset, and the same with a file for each drive."""
    folder = tmp_path_factory.mktemp('data')
    recorded = write_dataset(folder / 'recorded', {'town01_00/drive': FRAMES})
    mine = folder / 'mine'
    (mine / 'town01_00').mkdir(parents=True)
    for name in ('dataset_metadata.json', 'calibration.json'):
        shutil.copy(recorded / name, mine)
    reader, frames = DatasetStorage(recorded).route('town01_00', 'drive'), range(FRAMES)
    values = [supervision_of(frame) for frame in frames]
    arrays = {
        'measurements': np.array([list(measurements_of(frame).values()) for frame in frames]),
        'actions': np.array([(one['action_mu'], one['action_sigma']) for one in values]),
        'points': np.stack([reader.points(frame)[:20] for frame in frames]),
    }
    for camera in CAMERAS:
        arrays[f'rgb_{camera}'] = np.stack([reader.rgb(f'rgb_{camera}', f, SIZE) for f in frames])
        codes = [compact_depth(reader.depth_code(f'depth_{camera}', f, SIZE)) for f in frames]
        arrays[f'depth_{camera}'] = np.stack(codes)
        arrays[f'seg_{camera}'] = np.stack([reader.class_ids(f'seg_{camera}', f, SIZE) for f in frames])
    np.savez(mine / 'town01_00' / 'drive.npz', **arrays)
    return recorded, mine


def test_samples_are_those_of_the_recorded_format(my_drives: ModuleType, roots: tuple[Path, Path]) -> None:
    recorded, mine = CarlaDataset(roots[0], PIPELINE), my_drives.DriveDataset(roots[1], PIPELINE)
    assert len(mine) == len(recorded) == FRAMES - 5
    assert mine.metainfo['dataset'] == 'DriveDataset'
    for before, after in zip(recorded, mine, strict=True):
        for key in ('img', 'frame2key', 'speed', 'target_point', 'command', 'ida_mats'):
            torch.testing.assert_close(after['inputs'][key], before['inputs'][key], rtol=0, atol=0)
        for key in ('waypoints', 'seg'):
            torch.testing.assert_close(after['targets'][key], before['targets'][key], rtol=0, atol=0)
        torch.testing.assert_close(after['targets']['depth'], before['targets']['depth'], rtol=0, atol=0.008)
        assert len(after['inputs']['points']) == 40


def test_a_damaged_drive_is_replaced_or_named(
    my_drives: ModuleType, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(roots[1], tmp_path / 'copy'))
    file = root / 'town01_00/drive.npz'
    file.write_bytes(file.read_bytes()[:1000])
    dataset = my_drives.DriveDataset(root, PIPELINE, on_error='skip', max_replacements=3)
    with pytest.raises(DamagedDataError, match=r'drive\.npz'):
        dataset[0]


@pytest.mark.slow
def test_a_config_trains_on_it(my_drives: ModuleType, roots: tuple[Path, Path], tmp_path: Path) -> None:
    text = printed('my_config.py').replace("'configs/", f"'{REPOSITORY}/configs/")
    config = tmp_path / 'my_config.py'
    config.write_text(text.replace('my_data/', str(roots[1])))
    options = ['is_dev=True', 'image_size=(32,64)', 'batch_size=2', 'num_cameras=2', 'train_cfg.max_iters=2']
    flags = ['--no-validate', '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]
    assert command('train.py')([str(config), *flags]) == 0
    logged = next((tmp_path / 'run').rglob('scalars.json')).read_text()
    assert '"train/wp_loss"' in logged and '"train/action_loss"' in logged
