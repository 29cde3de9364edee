"""The configs for Bench2Drive train, evaluate and draw samples, with a small model on clips of the town."""

import json
import math
import re
import runpy
from pathlib import Path

import pytest
from helpers.bench2drive_clips import VAL_CLIP, write_clip
from helpers.commands import REPOSITORY, command

from thinktwice.apis import init_dataset

CONFIGS = REPOSITORY / 'configs'
NAMES = ('thinktwice_bench2drive', 'thinktwice_bench2drive_camera')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bench2drive')
    write_clip(path, 31, size=(48, 80))
    write_clip(path, 31, name=VAL_CLIP, size=(48, 80))
    assert command('tools/generate_metadata.py')([str(path), '--workers', '1']) == 0
    return path


def small_config(folder: Path, name: str, root: Path) -> Path:
    """A shipped config with the sizes of the small model."""
    model = runpy.run_path(str(CONFIGS / '_base_/models/minitown.py'))['model']
    del model['losses']  # those of the shipped config stay
    if name.endswith('camera'):
        del model['lidar_encoder'], model['decoder']['lidar_look'], model['bev_fusion']['lidar_channels']
        del model['bev_fusion']['lidar_strides']
    config = folder / f'{name}.py'
    config.write_text(
        f'_base_ = ["{CONFIGS}/{name}.py"]\n'
        f'data_root = {str(root)!r}\nimage_size = (32, 64)\nbatch_size = 2\n'
        'is_dev = True\nnum_refine_layers = 1\nspeed_scale = 1.0\nwarmup_iters = 1\n'
        f'train_cfg = dict(max_epochs=1)\nmodel = {model!r}\n'
    )
    return config


def printed_config(folder: Path, root: Path) -> Path:
    """The small camera-only config of docs/bench2drive.md."""
    text = (REPOSITORY / 'docs' / 'bench2drive.md').read_text(encoding='utf-8')
    (found,) = re.findall(r'`my_bench2drive\.py`:\n\n```python\n(.*?)```', text, re.DOTALL)
    config = folder / 'my_bench2drive_camera.py'
    config.write_text(found.replace("'configs/", f"'{CONFIGS}/").replace('Bench2Drive-Base/', str(root)))
    return config


@pytest.mark.slow
@pytest.mark.parametrize('name', [*NAMES, 'my_bench2drive_camera'])
def test_a_config_trains_and_evaluates(name: str, root: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, name, root) if name in NAMES else printed_config(tmp_path, root)
    options = ['is_dev=True', 'image_size=(32,64)', 'batch_size=2', 'train_cfg.max_epochs=1']
    arguments = [str(config), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]
    assert command('train.py')(arguments) == 0
    lines = [
        line for file in (tmp_path / 'run').rglob('scalars.json') for line in file.read_text().splitlines()
    ]
    scores = {key: value for line in lines for key, value in json.loads(line).items()}
    assert all(
        math.isfinite(scores[key])
        for key in ('train/loss', 'val/open_loop/ade', 'val/perception/depth_error')
    )
    sample = init_dataset(config, 'train', {'image_size': (32, 64)})[0]
    assert sample['inputs']['img'].shape == (2, 6, 3, 32, 64)
    assert ('points' in sample['inputs']) == (not name.endswith('camera'))
    assert {'action_alpha', 'waypoints', 'depth'} <= set(sample['targets'])


def test_samples_are_drawn(root: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, NAMES[0], root)
    browse = command('tools/browse_dataset.py')
    assert browse([str(config), '--index', '0', '--out', str(tmp_path / 'pictures')]) in (0, None)
    assert list((tmp_path / 'pictures').glob('*.png'))


def test_the_authors_split_is_used(root: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, NAMES[0], root)
    options = {'is_dev': False, 'phases': (0, 1, 2, 3, 4)}
    train, val = (init_dataset(config, split, options) for split in ('train', 'val'))
    # key frames 5 to 9 of 31 frames
    assert len(train) == len(val) == 5
    assert all(VAL_CLIP in val.sample_id(i) and VAL_CLIP not in train.sample_id(i) for i in range(5))
