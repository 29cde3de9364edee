"""Write dataset_metadata.json and dataset_metadata.pkl of a recorded dataset.

Examples:
    python tools/generate_metadata.py dataset/ --workers 8
    python tools/generate_metadata.py /read/only/dataset --metadata-dir metadata/

Looks for the scores of the recording runs (data_collect_*_results.json) in collect_data_json/
inside the dataset and next to it. Routes without a score are cut to be safe; malformed routes and
unreadable score files are listed at the end and in the JSON.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, positive, run_command
from thinktwice.errors import UserError, WriteError

if TYPE_CHECKING:
    from thinktwice.datasets.route_rules import Results
    from thinktwice.datasets.route_scan import Scan

RESULTS_FOLDER = 'collect_data_json'


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('root', type=Path, help='folder of the dataset, which contains townNN_XX/')
    parser.add_argument('--results', type=Path, help='folder with the scores of the recording runs')
    parser.add_argument(
        '--metadata-dir', type=Path, help='folder for the metadata; default: the dataset itself'
    )
    parser.add_argument(
        '--workers',
        type=positive,
        default=os.cpu_count() or 1,
        help='number of processes; default: all cores',
    )
    parser.add_argument(
        '--check-headings',
        action='store_true',
        help='also read every measurements file and list frames without a heading as invalid_frames, so '
        'that no sample uses them; otherwise such samples are replaced when they are read',
    )
    parser.add_argument('--dry-run', action='store_true', help='report only, write nothing')
    return parser.parse_args(argv)


def find_results(root: Path, given: Path | None) -> 'Results':
    """Read the scores from the given folder, or from next to and inside the dataset.

    Raises:
        FileNotFoundError: if the given folder does not exist.
    """
    from thinktwice.datasets.route_rules import Results, read_results

    if given is not None:
        if not given.is_dir():
            raise FileNotFoundError(f'--results {given}: no such folder')
        return read_results(given)
    found = read_results(root.resolve().parent / RESULTS_FOLDER)
    inside = read_results(root / RESULTS_FOLDER)
    return Results({**found.by_route, **inside.by_route}, {**found.unreadable, **inside.unreadable})


def report(scan: 'Scan', results: 'Results') -> str:
    """Table by town, followed by a list of all problems."""
    lines = [f'{"town":<12}{"routes":>8}{"frames":>10}{"usable":>10}  routes by rule']
    for town, routes in sorted(scan.metadata.towns.items()):
        rules = [record.rule for record in routes.values()]
        counts = ', '.join(f'{rule} {rules.count(rule)}' for rule in sorted(set(rules)))
        frames = sum(record.frames for record in routes.values())
        usable = sum(record.usable for record in routes.values())
        lines.append(f'{town:<12}{len(routes):>8}{frames:>10}{usable:>10}  {counts}')
    records = [record for routes in scan.metadata.towns.values() for record in routes.values()]
    frames, usable = sum(record.frames for record in records), sum(record.usable for record in records)
    lines.append(f'{"all":<12}{len(records):>8}{frames:>10}{usable:>10}')
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
    from thinktwice.datasets.calibration import load_calibration
    from thinktwice.datasets.metadata import save_metadata
    from thinktwice.datasets.route_scan import needed_folders, scan_dataset
    from thinktwice.datasets.storage import open_storage

    if not options.root.is_dir():
        raise FileNotFoundError(f'{options.root}: no such folder')
    try:
        results = find_results(options.root, options.results)
        folders = needed_folders(load_calibration(open_storage(options.root)))
    except ValueError as error:
        raise UserError(str(error)) from error
    scan = scan_dataset(options.root, folders, results, options.workers, options.check_headings)
    print(report(scan, results))
    if not scan.metadata.towns:
        raise FileNotFoundError(f'{options.root}: no route in townNN_XX/<route>/, nothing written')
    if not results.by_route:
        print('No scores of recording runs were found: every route was cut without one.')
    if not options.dry_run:
        extra = dict(
            malformed_routes=scan.malformed,
            incomplete_routes=scan.incomplete,
            unreadable_results=results.unreadable,
        )
        try:
            print('wrote', *save_metadata(scan.metadata, options.metadata_dir or options.root, **extra))
        except WriteError as error:
            raise WriteError(f'{error} Choose another folder with --metadata-dir') from error


if __name__ == '__main__':
    sys.exit(run_command(main))
