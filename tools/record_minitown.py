"""Record drives in the embedded town as a dataset.

Example:
    python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --seed 0 --size 225x400
"""

import argparse
import sys
from typing import NoReturn

from tqdm import tqdm

from thinktwice.minitown import DEFAULT_TOWNS, record

EXAMPLE = 'example: python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --size 225x400'
EXIT_BAD_ARGUMENTS = 2
EXIT_INTERRUPTED = 130


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave."""
        print(f'record_minitown: {message} (see --help)', file=sys.stderr)
        raise SystemExit(EXIT_BAD_ARGUMENTS)


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of text like ``225x400``."""
    height, cross, width = text.partition('x')
    if not (cross and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f'write HEIGHTxWIDTH, for example 225x400, not {text!r}')
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
    parser.add_argument('--frames', type=int, default=60, help='frames per drive, 0.5 s apart')
    parser.add_argument(
        '--seed', type=int, default=0, help='decides traffic and routes; same seed, same bytes'
    )
    parser.add_argument(
        '--size', type=parse_size, default=(225, 400), help='image size, HEIGHTxWIDTH in pixels'
    )
    parser.add_argument('--towns', help=f'names with commas between; by default {",".join(DEFAULT_TOWNS)}')
    parser.add_argument('--workers', type=int, default=1, help='processes; the files do not depend on it')
    parser.add_argument('--fov', type=float, default=100.0, help='horizontal field of view, degrees')
    parser.add_argument('--debug-maps', action='store_true', help="save the teacher's masks, 2.2 MB a frame")
    parser.add_argument('--force', action='store_true', help='replace an older recording in OUT')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse_arguments(arguments)
    bar = tqdm(total=max(0, options.routes * options.frames), unit='frame', disable=None)

    def progress(done: int, total: int) -> None:
        bar.update(done - bar.n)

    try:
        metadata = record(
            options.out,
            options.routes,
            options.frames,
            options.seed,
            options.size,
            None if options.towns is None else options.towns.split(','),
            options.workers,
            force=options.force,
            debug_maps=options.debug_maps,
            field_of_view=options.fov,
            progress=progress,
        )
    except (ValueError, OSError) as error:
        bar.close()
        print(f'record_minitown: {error}', file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    except KeyboardInterrupt:
        bar.close()
        print(
            f'record_minitown: interrupted; {options.out} is unfinished, run again with --force',
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    bar.close()
    routes = sum(len(town) for town in metadata['towns'].values())
    print(f'recorded {routes} routes of {options.frames} frames in {options.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
