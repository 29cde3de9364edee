"""Pack a recorded dataset: a twentieth of the size, several times faster to load, the same samples.

Examples:
    python tools/pack_dataset.py dataset/ packed/ --workers 8
    python tools/pack_dataset.py dataset/ packed/ --verify      # pack what is missing, then read all of it

Each route becomes one ZIP file. After an interruption or a full disk the same command continues: complete
routes are skipped. The source is only read.

Exit code: 0 done, 1 not everything could be packed or read.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, positive, run_command
from thinktwice.errors import UserError

if TYPE_CHECKING:
    from thinktwice.datasets.packing.datasets import RouteReport

MAX_LISTED = 20


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('source', help='folder (or address) of the recorded dataset')
    parser.add_argument('destination', help='folder to write')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, help='processes (all cores)')
    parser.add_argument('--ray', metavar='ADDRESS', help='work on a Ray cluster: auto, local or host:port')
    # what is not given has no attribute: PackSettings holds the defaults
    group = parser.add_argument_group('what to keep', argument_default=argparse.SUPPRESS)
    group.add_argument(
        '--final-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='largest network input to be trained, pixels (448 896); rows its crops never reach are dropped',
    )
    group.add_argument(
        '--oversampling',
        type=float,
        help='stored scale over the smallest scale that fills the input; training draws up to 1.117 (1.43)',
    )
    group.add_argument('--quality', type=int, help='of the JPEG images (92)')
    group.add_argument('--lossless-color', action='store_true', help='PNG instead of JPEG')
    group.add_argument('--whole-image', action='store_true', help='keep all rows')
    group.add_argument(
        '--teacher-levels',
        type=int,
        nargs='+',
        help='levels of the teacher maps to keep, of 0 to 5 (2 3 4 5)',
    )
    parser.add_argument('--verify', action='store_true', help='afterwards read every file as training would')
    return parser.parse_args(argv)


def follow(reports: 'Iterable[RouteReport]', total: int, title: str) -> bool:
    """Show progress, then the results; return whether there were no problems."""
    from tqdm import tqdm

    done = list(tqdm(reports, total=total, desc=title, unit='route', file=sys.stderr, disable=None))
    frames, size = sum(report.frames for report in done), sum(report.size for report in done)
    per_frame = f', {size / frames / 1e6:.2f} MB per frame' if size and frames else ''
    earlier = sum(report.was_done for report in done)
    print(f'{title}: {len(done)} routes ({earlier} were done before), {frames} frames{per_frame}')
    errors = [f'{report.name}: {report.error}' for report in done if report.error]
    damaged = [f'{report.name}/{name}: {why}' for report in done for name, why in report.damaged.items()]
    for heading, lines in (('Not done', errors), ('Unusable files', damaged)):
        if lines:
            print(f'{heading} ({len(lines)}):', *lines[:MAX_LISTED], sep='\n  ')
        if len(lines) > MAX_LISTED:
            print(f'  and {len(lines) - MAX_LISTED} more')
    if errors:
        print('Correct that (free some space, say) and run the same command again: complete routes are kept.')
    return not errors and not damaged


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 if something could not be packed or read."""
    options = parse_arguments(argv)
    from thinktwice.datasets.metadata import JSON_NAME, load_metadata
    from thinktwice.datasets.packing.datasets import pack_dataset, verify_dataset
    from thinktwice.datasets.packing.frames import PackSettings
    from thinktwice.datasets.storage import DatasetStorage

    source, destination, where = options.source, options.destination, (options.workers, options.ray)
    try:
        total = len([*load_metadata(DatasetStorage(source), source).routes()])
        names = {field.name for field in fields(PackSettings)}
        kept = {name: value for name, value in vars(options).items() if name in names}
        reports = pack_dataset(source, destination, PackSettings(**kept), *where)
        is_good = follow(reports, total, 'packed')
        if options.verify and (Path(destination) / JSON_NAME).is_file():
            is_good &= follow(verify_dataset(destination, *where), total, 'verified')
    except (ValueError, OSError, ImportError) as error:
        raise UserError(str(error)) from error
    return int(not is_good)


if __name__ == '__main__':
    sys.exit(run_command(main))
