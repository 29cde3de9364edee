"""Record drives in the embedded town as a dataset.

Example:
    python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --seed 0 --size 225x400
"""

import argparse
import sys
from collections.abc import Sequence

from thinktwice.command_line import Parser, natural, positive, run_command

FRAMES_PER_SAMPLE = 6  # one of history, the key frame, four of future


def parse_size(text: str) -> tuple[int, int]:
    """Return the two integers of text like ``225x400``."""
    height, cross, width = text.partition('x')
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'expected two integers like 225x400, got {text!r}')
    return int(height), int(width)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument('out', help='folder of the new dataset')
    parser.add_argument(
        '--routes', type=positive, default=8, help='drives, assigned to the towns in turn (%(default)s)'
    )
    parser.add_argument(
        '--frames', type=positive, default=60, help='per drive, 0.5 s apart; a sample needs 6 (%(default)s)'
    )
    parser.add_argument(
        '--seed', type=natural, default=0, help='of traffic and routes; same seed, same bytes (%(default)s)'
    )
    parser.add_argument(
        '--size', type=parse_size, default='225x400', help='image size in pixels, HEIGHTxWIDTH (%(default)s)'
    )
    parser.add_argument(
        '--towns',
        help='comma-separated names such as town01_00; by default two routes already cover training and '
        'validation',
    )
    parser.add_argument(
        '--workers', type=positive, default=1, help='processes; the files do not depend on it (%(default)s)'
    )
    parser.add_argument(
        '--lidar', type=parse_size, default='64x937', help='LiDAR beams x firings per turn (%(default)s)'
    )
    parser.add_argument(
        '--fov', type=float, default=100.0, help='horizontal field of view, degrees (%(default)s)'
    )
    parser.add_argument(
        '--debug-maps', action='store_true', help="save the teacher's masks, 2.2 MB per frame"
    )
    parser.add_argument('--force', action='store_true', help='replace an older recording in OUT')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Record, show progress and print what was recorded."""
    parser = make_parser()
    options = parser.parse_args(argv)
    from tqdm import tqdm

    from thinktwice.errors import ConfigError
    from thinktwice.minitown import DEFAULT_TOWNS, Lidar, record

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
            options.towns.split(',') if options.towns else DEFAULT_TOWNS,
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
    sys.exit(run_command(main))
