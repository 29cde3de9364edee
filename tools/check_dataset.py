"""Read a whole dataset as training would and report every unusable file.

The dataset may be recorded or packed, local or remote. With --repair, metadata is written that
excludes the damaged frames from training.

Examples:
    python tools/check_dataset.py dataset/ --workers 8 --report damaged.json
    python tools/check_dataset.py dataset/ --repair
    python tools/check_dataset.py http://server/dataset --repair --metadata-dir repaired/
    python tools/check_dataset.py Bench2Drive-Base/ --sensors

Exit code: 0 all files are usable (with --sensors: all checks pass), 1 some are not.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, positive, run_command
from thinktwice.errors import UserError

if TYPE_CHECKING:
    from thinktwice.datasets.frame_check import CheckReport

MAX_LISTED = 20


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('root', help='folder or address of the dataset')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, help='processes (all cores)')
    parser.add_argument('--report', type=Path, help='write all problems to this JSON file')
    parser.add_argument(
        '--repair', action='store_true', help='write metadata that excludes frames with problems'
    )
    parser.add_argument(
        '--metadata-dir', type=Path, help='folder for the repaired metadata; default: the dataset itself'
    )
    parser.add_argument(
        '--sensors',
        action='store_true',
        help='instead check that clips of Bench2Drive agree with what docs/bench2drive.md says of them',
    )
    options = parser.parse_args(argv)
    if options.repair and '://' in options.root and options.metadata_dir is None:
        parser.error('--repair of a remote dataset needs --metadata-dir')
    return options


def summary(reports: Sequence['CheckReport']) -> str:
    """Counts by town and by folder, followed by the first problems."""
    lines = [f'{"town":<12}{"routes":>8}{"frames":>10}{"damaged frames":>16}']
    for town in sorted({report.town for report in reports}):
        chosen = [report for report in reports if report.town == town]
        frames, damaged = sum(r.frames for r in chosen), sum(len(r.problems) for r in chosen)
        lines.append(f'{town:<12}{len(chosen):>8}{frames:>10}{damaged:>16}')
    problems = [(report, frame) for report in reports for frame in sorted(report.problems)]
    folders = Counter(folder for report, frame in problems for folder in report.problems[frame])
    if folders:
        lines.append(
            'files by folder: ' + ', '.join(f'{name} {count}' for name, count in folders.most_common())
        )
    messages = [text for report, frame in problems for text in report.problems[frame].values()]
    lines += [f'  {text}' for text in messages[:MAX_LISTED]]
    if len(messages) > MAX_LISTED:
        lines.append(f'  and {len(messages) - MAX_LISTED} more (--report FILE lists all)')
    return '\n'.join(lines)


def write_report(path: Path, root: str, reports: Sequence['CheckReport']) -> None:
    """Write all problems as JSON: route, frame, folder, reason."""
    from thinktwice.files import write_json

    problems = {
        f'{report.town}/{report.route}': {str(frame): found for frame, found in report.problems.items()}
        for report in reports
        if report.problems
    }
    content = {'root': root, 'frames': sum(report.frames for report in reports), 'problems': problems}
    write_json(path, content)


def check_sensors(root: str, workers: int) -> bool:
    """Run and print the checks of the clips of Bench2Drive; returns whether all passed."""
    from tqdm import tqdm

    from thinktwice.datasets.bench2drive.checks import check_clip
    from thinktwice.datasets.jobs import run_tasks
    from thinktwice.datasets.storage.bench2drive import CLIPS_FILE, parse_clips

    path = Path(root) / CLIPS_FILE
    if not path.is_file():
        raise UserError(f'{path} is missing: --sensors is for clips of Bench2Drive; run generate_metadata.py')
    tasks = [*parse_clips(path.read_bytes(), str(path)).items()]
    found = run_tasks(partial(check_clip, root), tasks, workers)
    clips = list(tqdm(found, total=len(tasks), unit='clip', file=sys.stderr, disable=None))
    for number, results in enumerate(zip(*clips, strict=True), start=1):
        failed = [result for result in results if not result.passed]
        passed = f'{len(results) - len(failed)} of {len(results)} clips pass'
        print(f'{number:>2}. {results[0].name}: {passed}; {(failed or results)[0].detail}')
        for result in failed[1:MAX_LISTED]:
            print(f'    {result.detail}')
    return all(result.passed for results in clips for result in results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 if some files are not usable."""
    options = parse_arguments(argv)
    from tqdm import tqdm

    from thinktwice.datasets.calibration import load_calibration
    from thinktwice.datasets.frame_check import check_route, repaired_metadata
    from thinktwice.datasets.jobs import run_tasks
    from thinktwice.datasets.metadata import load_metadata, save_metadata
    from thinktwice.datasets.storage import DatasetStorage

    root = options.root
    if options.sensors:
        return int(not check_sensors(root, options.workers))
    try:
        storage = DatasetStorage(root)
        metadata = load_metadata(storage, root)
        load_calibration(storage, metadata)  # a missing file is one error, not one per image
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    tasks = [(town, route, record.usable) for town, route, record in metadata.routes()]
    results = run_tasks(partial(check_route, root), tasks, options.workers)
    reports = list(tqdm(results, total=len(tasks), unit='route', file=sys.stderr, disable=None))
    reports.sort(key=lambda report: (report.town, report.route))
    print(summary(reports))
    if options.report:
        write_report(options.report, root, reports)
    if options.repair:
        folder = options.metadata_dir or Path(root)
        folder.mkdir(parents=True, exist_ok=True)
        print('wrote', *save_metadata(repaired_metadata(metadata, reports), folder))
    return int(any(report.problems for report in reports))


if __name__ == '__main__':
    sys.exit(run_command(main))
