"""Draw samples of a config's dataset, before and after augmentation.

One picture per sample: all cameras with the LiDAR points projected into them (colored by depth),
depth and class labels, and the bird's-eye view with waypoints, target point and command.

Examples:
    python tools/browse_dataset.py configs/thinktwice_minitown.py
    python tools/browse_dataset.py configs/thinktwice.py --index 0 17 --epoch 3 --out pictures/ --html
    python tools/browse_dataset.py configs/thinktwice.py --random 8 --iteration 300000
"""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinktwice.command_line import (
    Parser,
    add_override_flag,
    add_sample_flags,
    choose_samples,
    natural,
    run_command,
)
from thinktwice.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor

    from thinktwice.datasets import CarlaDataset

CAMERA_STEP = 'LoadCameras'


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('config', help='config file')
    add_sample_flags(parser, split='train')
    parser.add_argument('--epoch', type=natural, default=0, help='epoch whose augmentation is drawn')
    parser.add_argument(
        '--iteration',
        type=natural,
        help='also apply the photometric augmentation of this training iteration',
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/browse'), help='folder for the pictures')
    parser.add_argument(
        '--html', action='store_true', help='also write an index.html that shows the pictures'
    )
    add_override_flag(parser)
    return parser.parse_args(argv)


def build_datasets(config: 'Config', split: str) -> tuple['CarlaDataset', 'CarlaDataset']:
    """Build the dataset with whole undistorted images, and the dataset of the config."""
    from thinktwice.apis import init_dataset

    after = init_dataset(config, split)
    if not hasattr(after, 'calibration'):
        raise ConfigError(f'{split}_dataloader.dataset is a {type(after).__name__}: draw one CarlaDataset')
    whole = {'image_size': after.calibration.image_size, 'training': False}
    key = f'{split}_dataloader'
    steps = [
        {**step, **whole} if str(step['type']).endswith(CAMERA_STEP) else step
        for step in config[key].dataset.pipeline
    ]
    return init_dataset(config, split, {f'{key}.dataset.pipeline': steps}), after


def photometric(config: 'Config', sample: dict[str, Any], iteration: int) -> 'Tensor':
    """Apply the photometric augmentation of a training iteration to a sample."""
    from thinktwice.registry import MODELS

    preprocessor = MODELS.build(config.model.data_preprocessor)
    if preprocessor.photometric is None:
        raise ConfigError('--iteration: the data_preprocessor of the config has no photometric augmentation')
    preprocessor.set_iteration(iteration)
    return preprocessor.augment(sample['inputs']['img'][None], [sample['metas']])[0]


def write_page(folder: Path, captions: dict[str, str]) -> None:
    """Write an HTML page that shows the pictures of a folder."""
    figures = ''.join(
        f'<figure><img src="{name}" style="max-width:100%">'
        f'<figcaption>{html.escape(text)}</figcaption></figure>'
        for name, text in captions.items()
    )
    page = f'<!doctype html><meta charset="utf-8"><title>Samples</title><body>{figures}</body>\n'
    (folder / 'index.html').write_text(page, encoding='utf-8')


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the samples and print the file names."""
    options = parse_arguments(argv)
    from thinktwice.config.load import load_config
    from thinktwice.core.visualization.data import browse_picture, describe_sample
    from thinktwice.core.visualization.picture import save_picture
    from thinktwice.datasets import SampleKey

    overrides = {f'{options.split}_dataloader.dataset.data_root': options.data_root}
    config = load_config(options.config, {**options.cfg_options, **(overrides if options.data_root else {})})
    before, after = build_datasets(config, options.split)
    captions: dict[str, str] = {}
    for index in choose_samples(options, len(after)):
        key = SampleKey(index, options.epoch)
        sample = after[key]
        changed = None if options.iteration is None else photometric(config, sample, options.iteration)
        name = f'{index:06d}_epoch{options.epoch}.png'
        save_picture(browse_picture(before[key], sample, changed), options.out / name)
        captions[name] = describe_sample(sample)
        print(f'{options.out / name}: {captions[name]}')
    if options.html:
        write_page(options.out, captions)
        print(options.out / 'index.html')


if __name__ == '__main__':
    sys.exit(run_command(main))
