"""Write dataset_metadata.json and dataset_metadata.pkl of a recorded dataset, or of clips of Bench2Drive.

Examples:
    python tools/generate_metadata.py dataset/ --workers 8
    python tools/generate_metadata.py Bench2Drive-Base/ --phases 0
    python tools/generate_metadata.py /read/only/dataset --metadata-dir metadata/

Looks for the scores of the recording runs (data_collect_*_results.json) in collect_data_json/
inside the dataset and next to it. Routes without a score are cut to be safe; malformed routes and
unreadable score files are listed at the end and in the JSON.

For clips of Bench2Drive, bench2drive.json (where the clips are) and calibration.json (from the clips) are
written too; see docs/bench2drive.md.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, positive, run_command
from thinktwice.errors import UserError, WriteError

if TYPE_CHECKING:
    from thinktwice.datasets.route_scan import Results, Scan

RESULTS_FOLDER = 'collect_data_json'


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('root', type=Path, help='folder of the dataset, with townNN_XX/ or clips')
    parser.add_argument('--results', type=Path, help='folder with the scores of the recording runs')
    parser.add_argument(
        '--metadata-dir', type=Path, help='folder for the metadata; default: the dataset itself'
    )
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, help='processes (all cores)')
    parser.add_argument(
        '--check-headings',
        action='store_true',
        help='also read every measurements file and list frames without a heading as invalid_frames, so '
        'that no sample uses them; otherwise such samples are replaced when they are read',
    )
    parser.add_argument(
        '--phases',
        type=int,
        nargs='+',
        help='list only these phases of the clips of Bench2Drive, of 0 to 4; default: all five',
    )
    parser.add_argument('--dry-run', action='store_true', help='report only, write nothing')
    return parser.parse_args(argv)


def report(scan: 'Scan', results: 'Results') -> str:
    """Table by town, followed by a list of all problems."""
    lines = [f'{"town":<12}{"routes":>8}{"frames":>10}{"usable":>10}  routes by rule']
    towns = {town: list(routes.values()) for town, routes in sorted(scan.metadata.towns.items())}
    for town, records in {**towns, 'all': sum(towns.values(), [])}.items():
        frames, usable = sum(record.frames for record in records), sum(record.usable for record in records)
        rules = Counter(sorted(record.rule for record in records))
        counts = ', '.join(f'{rule} {count}' for rule, count in rules.items())
        lines.append(f'{town:<12}{len(records):>8}{frames:>10}{usable:>10}  {counts}')
    for title, problems in (
        ('Left out, malformed', scan.malformed),
        ('Cut at the last complete frame', scan.incomplete),
        ('Score files that could not be read', results.unreadable),
    ):
        lines += [f'{title}:'] * bool(problems) + [f'  {name}: {why}' for name, why in problems.items()]
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Scan the dataset, print the report and write the metadata.

    Raises:
        UserError: Nothing was written.
    """
    options = parse_arguments(argv)
    from thinktwice.datasets.bench2drive.clips import checked_phases, find_clips, scan_clips, write_clips
    from thinktwice.datasets.calibration import load_calibration
    from thinktwice.datasets.metadata import save_metadata
    from thinktwice.datasets.route_scan import needed_folders, read_results, scan_dataset
    from thinktwice.datasets.storage import DatasetStorage
    from thinktwice.datasets.storage.bench2drive import PHASES

    root = options.root
    for flag, folder in (('', root), ('--results ', options.results)):
        if folder and not folder.is_dir():
            raise FileNotFoundError(f'{flag}{folder}: no such folder')
    around = (root.resolve().parent / RESULTS_FOLDER, root / RESULTS_FOLDER)
    results = read_results(*([options.results] if options.results else around))
    clips: dict[str, str] = {}
    rig = None
    if clip_folders := find_clips(root):
        phases = checked_phases(options.phases or PHASES)
        scan, clips, rig = scan_clips(root, clip_folders, phases, options.workers)
    else:
        try:
            folders = needed_folders(load_calibration(DatasetStorage(root)))
        except ValueError as error:
            raise UserError(str(error)) from error
        scan = scan_dataset(root, folders, results, options.workers, options.check_headings)
    print(report(scan, results))
    if not scan.metadata.towns:
        raise FileNotFoundError(
            f'{root}: no route in townNN_XX/<route>/ and no usable clip of Bench2Drive, nothing written'
        )
    if not results.by_route and not clips:
        print('No scores of recording runs were found: every route was cut without one.')
    if not options.dry_run:
        folder = options.metadata_dir or root
        extra = dict(
            malformed_routes=scan.malformed,
            incomplete_routes=scan.incomplete,
            unreadable_results=results.unreadable,
        )
        try:
            if rig is not None:
                print('wrote', *write_clips(folder, clips, rig))
            print('wrote', *save_metadata(scan.metadata, folder, **extra))
        except WriteError as error:
            raise WriteError(f'{error} Choose another folder with --metadata-dir') from error


if __name__ == '__main__':
    sys.exit(run_command(main))
