"""Record drives in the embedded town as a dataset.

Example:
    python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --seed 0 --size 225x400
"""

import argparse
import sys
from typing import NoReturn

from tqdm import tqdm

from thinktwice.minitown import DEFAULT_TOWNS, Lidar, record

EXAMPLE = 'example: python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --size 225x400'
EXIT_BAD_ARGUMENTS = 2
EXIT_INTERRUPTED = 130
FRAMES_OF_A_SAMPLE = 6  # one of history, the key frame and four to come


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave."""
        print(f'record_minitown: {message} (see --help)', file=sys.stderr)
        raise SystemExit(EXIT_BAD_ARGUMENTS)


def parse_size(text: str) -> tuple[int, int]:
    """Return the two numbers of text like ``225x400``."""
    height, cross, width = text.partition('x')
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'write two numbers like 225x400, not {text!r}')
    return int(height), int(width)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = OneLineParser(
        description='Record drives in the embedded town as a dataset.',
        epilog=EXAMPLE,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', help='folder of the new dataset')
    parser.add_argument(
        '--routes', type=int, default=8, help='number of drives, spread over the towns in turn'
    )
    parser.add_argument('--frames', type=int, default=60, help='per drive, 0.5 s apart; a sample needs 6')
    parser.add_argument(
        '--seed', type=int, default=0, help='decides traffic and routes; same seed, same bytes'
    )
    parser.add_argument(
        '--size', type=parse_size, default='225x400', help='image size, HEIGHTxWIDTH in pixels'
    )
    parser.add_argument(
        '--towns',
        default=','.join(DEFAULT_TOWNS),
        help='names with commas between; by default two routes already fill training and validation',
    )
    parser.add_argument('--workers', type=int, default=1, help='processes; the files do not depend on it')
    parser.add_argument('--lidar', type=parse_size, default='64x937', help='LiDAR beams x firings a turn')
    parser.add_argument('--fov', type=float, default=100.0, help='horizontal field of view, degrees')
    parser.add_argument('--debug-maps', action='store_true', help="save the teacher's masks, 2.2 MB a frame")
    parser.add_argument('--force', action='store_true', help='replace an older recording in OUT')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse_arguments(arguments)
    bar: tqdm | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit='frame', mininterval=0.5 if sys.stderr.isatty() else 10.0)
        bar.update(done - bar.n)

    try:
        metadata = record(
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
    except (ValueError, OSError) as error:
        message, code = str(error), EXIT_BAD_ARGUMENTS
    except KeyboardInterrupt:
        hint = f'{options.out} is unfinished, record it again with --force'
        message, code = f'interrupted; {hint}', EXIT_INTERRUPTED
    else:
        message, code = '', 0
    if bar is not None:
        bar.close()
    if code:
        print(f'record_minitown: {message}', file=sys.stderr)
        return code
    routes = sum(len(town) for town in metadata['towns'].values())
    print(f'recorded {routes} route(s) of {options.frames} frames in {options.out}')
    if options.frames < FRAMES_OF_A_SAMPLE:
        print(
            f'warning: no sample in it, which needs {FRAMES_OF_A_SAMPLE} frames in a row',
            file=sys.stderr,
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
