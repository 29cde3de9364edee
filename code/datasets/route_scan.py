"""Find the routes of a recorded dataset and their lengths, reading as little as possible.

Directories are listed instead of opening every file. Of the contents, only the speeds that decide
where a route is cut are read. Works on local datasets only.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .calibration import Calibration
from .metadata import DatasetMetadata, RouteRecord, is_safe_name
from .packing.jobs import run_tasks
from .route_rules import Results, RouteResult, usable_frames

TOWN_PREFIX = 'town'
ALWAYS_NEEDED = ('measurements', 'supervision', 'lidar')


@dataclass
class Scan:
    """Result of scanning a dataset.

    Attributes:
        metadata: routes in sorted order.
        malformed: routes that were left out, with the reason.
        incomplete: routes with fewer complete frames than measurements, with the first gap.
    """

    metadata: DatasetMetadata = field(default_factory=DatasetMetadata)
    malformed: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RouteScan:
    """Result of scanning one route; without a record the route is malformed."""

    town: str
    route: str
    record: RouteRecord | None = None
    problem: str = ''


class MalformedRouteError(ValueError):
    """A route folder is not in the recorded format."""


def needed_folders(calibration: Calibration) -> tuple[str, ...]:
    """Folders of a route that a sample reads."""
    images = [folder for camera in calibration.cameras for folder in (camera.rgb, camera.depth, camera.seg)]
    return (*ALWAYS_NEEDED, *images)


def find_routes(root: Path) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """List the routes (town index, route) of a dataset in sorted order, and folders with invalid names."""
    routes: list[tuple[str, str]] = []
    refused: dict[str, str] = {}
    for town in _folders(root):
        if not town.startswith(TOWN_PREFIX):
            continue
        for route in _folders(root / town):
            if is_safe_name(town) and is_safe_name(route):
                routes.append((town, route))
            else:
                refused[f'{town}/{route}'] = 'the folder name has characters that are not allowed'
    return routes, refused


def scan_dataset(
    root: Path,
    folders: Sequence[str],
    results: Results,
    workers: int = 1,
    check_headings: bool = False,
) -> Scan:
    """Find all routes and the number of usable frames of each; shows progress on a terminal.

    Args:
        root: folder of the dataset.
        folders: folders of a route in which every frame needs a file.
        results: scores of the recording runs.
        workers: number of processes.
        check_headings: also read all measurements and list frames without a heading.
    """
    routes, refused = find_routes(root)
    scan = Scan(malformed=refused)
    tasks = [(town, route, results.by_route.get(route)) for town, route in routes]
    found = run_tasks(partial(scan_route, root, folders, check_headings), tasks, workers)
    scans = list(tqdm(found, total=len(tasks), unit='route', file=sys.stderr, disable=None))
    for one in sorted(scans, key=lambda one: (one.town, one.route)):
        name = f'{one.town}/{one.route}'
        if one.record is None:
            scan.malformed[name] = one.problem
        else:
            scan.metadata.towns.setdefault(one.town, {})[one.route] = one.record
            if one.problem:
                scan.incomplete[name] = one.problem
    return scan


def scan_route(
    root: Path, folders: Sequence[str], check_headings: bool, task: tuple[str, str, RouteResult | None]
) -> RouteScan:
    """Determine the number of usable frames of one route.

    Args:
        root: folder of the dataset.
        folders: folders of a route in which every frame needs a file.
        check_headings: also read all measurements and list frames without a heading.
        task: town index, route and the score of the route, if there is one.
    """
    town, route, result = task
    folder = root / town / route
    try:
        counts = {name: _contiguous_frames(folder / name) for name in folders}
        recorded = counts['measurements']
        complete = min(counts.values())
        number_of = partial(_read_number, folder / 'measurements')
        usable, rule = usable_frames(recorded, partial(number_of, 'speed'), result)
        usable = min(usable, complete)
        headings = range(usable) if check_headings else ()
        invalid = tuple(frame for frame in headings if math.isnan(number_of('theta', frame)))
    except MalformedRouteError as error:
        return RouteScan(town, route, problem=str(error))
    problem = ''
    if complete < recorded:
        first = next(name for name in folders if counts[name] == complete)
        problem = f'{first} ends before frame {complete:04d}, measurements before {recorded:04d}'
    disturbed = result.disturbed_frames if result else ()
    return RouteScan(town, route, RouteRecord(recorded, usable, rule, invalid, disturbed), problem)


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _contiguous_frames(folder: Path) -> int:
    """Number of frames 0, 1, ... without a gap and without an empty last file.

    Raises:
        MalformedRouteError: if the folder is missing or can't be listed.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise MalformedRouteError(f'{folder}: {error.strerror or error}') from error
    suffix = {name.rpartition('.')[2] for name in names if name[:1].isdigit()}
    if len(suffix) > 1:
        raise MalformedRouteError(f'{folder}: files of several types ({", ".join(sorted(suffix))})')
    present = {int(stem) for stem, _, _ in (name.partition('.') for name in names) if _is_frame(stem)}
    count = next(i for i in range(len(present) + 1) if i not in present)
    # A killed recorder can leave its last file empty; earlier files were closed before the next was opened.
    while count and suffix and os.path.getsize(folder / f'{count - 1:04d}.{next(iter(suffix))}') == 0:
        count -= 1
    return count


def _is_frame(stem: str) -> bool:
    """Whether a file name (without its ending) is a frame number as the recorder writes it."""
    return stem.isascii() and stem.isdigit() and f'{int(stem):04d}' == stem


def _read_number(folder: Path, key: str, frame: int) -> float:
    """A number of a frame's measurements.

    Raises:
        MalformedRouteError: if the file can't be read; the message names it.
    """
    path = folder / f'{frame:04d}.json'
    try:
        return float(json.loads(path.read_bytes())[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MalformedRouteError(f'{path}: {type(error).__name__}: {error}') from error
