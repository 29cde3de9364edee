"""Record drives in the embedded town as a dataset.

Example:
    python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --seed 0 --size 225x400
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from tqdm import tqdm

from thinktwice.errors import ConfigError
from thinktwice.minitown import DEFAULT_TOWNS, Lidar, record

EXAMPLE = 'example: python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --size 225x400'
FRAMES_PER_SAMPLE = 6  # one of history, the key frame, four of future


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad argument in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')


def parse_size(text: str) -> tuple[int, int]:
    """Return the two integers of text like ``225x400``."""
    height, cross, width = text.partition('x')
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'expected two integers like 225x400, got {text!r}')
    return int(height), int(width)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = OneLineParser(
        description='Record drives in the embedded town as a dataset.',
        epilog=EXAMPLE,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', help='folder of the new dataset')
    parser.add_argument(
        '--routes', type=int, default=8, help='number of drives, assigned to the towns in turn'
    )
    parser.add_argument('--frames', type=int, default=60, help='per drive, 0.5 s apart; a sample needs 6')
    parser.add_argument('--seed', type=int, default=0, help='of traffic and routes; same seed, same bytes')
    parser.add_argument(
        '--size', type=parse_size, default='225x400', help='image size in pixels, HEIGHTxWIDTH'
    )
    parser.add_argument(
        '--towns',
        default=','.join(DEFAULT_TOWNS),
        help='comma-separated names; by default two routes already cover training and validation',
    )
    parser.add_argument('--workers', type=int, default=1, help='processes; the files do not depend on it')
    parser.add_argument(
        '--lidar', type=parse_size, default='64x937', help='LiDAR beams x firings per revolution'
    )
    parser.add_argument('--fov', type=float, default=100.0, help='horizontal field of view, degrees')
    parser.add_argument(
        '--debug-maps', action='store_true', help="save the teacher's masks, 2.2 MB per frame"
    )
    parser.add_argument('--force', action='store_true', help='replace an older recording in OUT')
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Record, show progress and print what was recorded."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    bar: tqdm | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, unit='frame', mininterval=0.5 if sys.stderr.isatty() else 10.0)
        bar.update(done - bar.n)

    try:
        record(
            options.out,
            options.routes,
            options.frames,
            options.seed,
            options.size,
            options.towns.split(','),
            options.workers,
            force=options.force,
            debug_maps=options.debug_maps,
            field_of_view=options.fov,
            lidar=Lidar(channels=options.lidar[0], columns=options.lidar[1]),
            progress=progress,
        )
    except ConfigError as error:
        parser.error(str(error))
    finally:
        if bar is not None:
            bar.close()
    print(f'recorded {options.routes} route(s) of {options.frames} frames in {options.out}')
    if options.frames < FRAMES_PER_SAMPLE:
        print(
            f'warning: the recording gives no sample, which needs {FRAMES_PER_SAMPLE} frames', file=sys.stderr
        )


if __name__ == '__main__':
    # Imported here: recording processes import this file too and do not need it.
    from thinktwice.command_line import run_command

    sys.exit(run_command(main))
