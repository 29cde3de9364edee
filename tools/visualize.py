"""Draw what a model predicts: a PNG per sample, or an MP4 per drive.

A picture shows the plans of all stages, the expert's plan and the target point in the cameras and from
above, LiDAR, predicted depth and classes beside the labels, where the look modules look, the distributions
of the controls, and the errors of the sample, computed by the metrics of the config. What the model or the
data does not have is left out.

Examples:
    python tools/visualize.py configs/thinktwice_minitown.py work_dirs/demo/epoch_4.pth
    python tools/visualize.py CONFIG CHECKPOINT --index 0 100 --out pictures
    python tools/visualize.py CONFIG CHECKPOINT --index 100 --video
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import (
    Parser,
    add_override_flag,
    add_sample_flags,
    choose_samples,
    run_command,
)

if TYPE_CHECKING:
    import numpy as np

    from thinktwice.datasets import CarlaDataset


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_sample_flags(parser, split='val')
    parser.add_argument(
        '--video', action='store_true', help='write an MP4 of the whole drive of each sample, in real time'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/visualize'), help='folder for pictures and videos'
    )
    add_override_flag(parser)
    return parser.parse_args(argv)


def drives_of(dataset: 'CarlaDataset', indices: Sequence[int]) -> dict[str, list[int]]:
    """All samples of the drives that the given samples belong to, in order, by the name of the drive."""
    wanted = {dataset.sample_id(index).rpartition('/')[0] for index in indices}
    drives: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        name = dataset.sample_id(index).rpartition('/')[0]
        if name in wanted:
            drives.setdefault(name, []).append(index)
    return drives


def write_video(path: Path, frames: Sequence[int], draw: Callable[[int], 'np.ndarray'], rate: float) -> None:
    """Write an MP4 with a frame per sample."""
    from thinktwice.core.visualization import Movie

    movie = Movie(path, rate)
    try:
        for index in frames:
            movie.write(draw(index))
    finally:
        movie.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the samples and print the file names."""
    options = parse_arguments(argv)
    from thinktwice.apis import draw_prediction, init_dataset, init_model
    from thinktwice.config.load import load_config
    from thinktwice.core.visualization import save_picture

    overrides = {f'{options.split}_dataloader.dataset.data_root': options.data_root}
    config = load_config(options.config, {**options.cfg_options, **(overrides if options.data_root else {})})
    dataset = init_dataset(config, options.split)
    indices = choose_samples(options, len(dataset))
    draw = partial(draw_prediction, init_model(config, options.checkpoint), dataset)
    if options.video:
        for name, frames in drives_of(dataset, indices).items():
            path = options.out / f'{name.replace("/", "_")}.mp4'
            write_video(path, frames, draw, 1 / dataset.metainfo['frame_interval'])
            print(f'{path}: {len(frames)} frames')
    else:
        for index in indices:
            path = options.out / f'{index:06d}.png'
            save_picture(draw(index), path)
            print(f'{path}: {dataset.sample_id(index)}')


if __name__ == '__main__':
    sys.exit(run_command(main))
