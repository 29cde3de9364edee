"""Finding the routes of a recorded dataset and the length of each, reading as little as possible.

Folders are listed, not opened file by file; of the contents only the speeds are read that decide
where a route is cut. For datasets on a local disk.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .calibration import Calibration
from .metadata import DatasetMetadata, RouteRecord, is_safe_name
from .route_rules import Results, RouteResult, usable_frames

TOWN_PREFIX = 'town'
ALWAYS_NEEDED = ('measurements', 'supervision', 'lidar')


@dataclass
class Scan:
    """What a scan found.

    Attributes:
        metadata: routes in sorted order.
        malformed: routes that were left out, with the reason.
        incomplete: routes with fewer complete frames than measurements, with the first gap.
        num_files: files seen.
    """

    metadata: DatasetMetadata = field(default_factory=DatasetMetadata)
    malformed: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
    num_files: int = 0


@dataclass(frozen=True)
class RouteScan:
    """What a scan found in one route."""

    town: str
    route: str
    record: RouteRecord | None = None
    problem: str = ''
    num_files: int = 0


class MalformedRouteError(ValueError):
    """A route folder that is not in the recorded format."""


def needed_folders(calibration: Calibration) -> tuple[str, ...]:
    """Folders of a route that a sample reads."""
    images = [folder for camera in calibration.cameras for folder in (camera.rgb, camera.depth, camera.seg)]
    return (*ALWAYS_NEEDED, *images)


def find_routes(root: Path) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Routes (town index, route) of a dataset, sorted, and folders with unusable names."""
    routes: list[tuple[str, str]] = []
    refused: dict[str, str] = {}
    for town in _folders(root):
        if not town.startswith(TOWN_PREFIX):
            continue
        for route in _folders(root / town):
            if is_safe_name(town) and is_safe_name(route):
                routes.append((town, route))
            else:
                refused[f'{town}/{route}'] = 'the folder name holds characters that are not admitted'
    return routes, refused


def scan_dataset(
    root: Path,
    folders: Sequence[str],
    results: Results,
    workers: int = 1,
    check_headings: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Find all routes and how many frames of each may be used.

    Args:
        root: the dataset's folder.
        folders: folders of a route in which a frame needs a file.
        results: scores of the recording runs.
        workers: processes.
        check_headings: also read all measurements and list frames without a heading.
        progress: called with (routes done, routes in all).
    """
    routes, refused = find_routes(root)
    scan = Scan(malformed=refused)
    jobs = [(town, route, results.by_route.get(route)) for town, route in routes]
    scan_one = partial(_scan_job, root, tuple(folders), check_headings)
    for done, found in enumerate(_map(scan_one, jobs, workers), start=1):
        name = f'{found.town}/{found.route}'
        scan.num_files += found.num_files
        if found.record is None:
            scan.malformed[name] = found.problem
        else:
            scan.metadata.towns.setdefault(found.town, {})[found.route] = found.record
            if found.problem:
                scan.incomplete[name] = found.problem
        if progress is not None:
            progress(done, len(jobs))
    return scan


def scan_route(
    root: Path,
    town: str,
    route: str,
    folders: Sequence[str],
    result: RouteResult | None,
    check_headings: bool = False,
) -> RouteScan:
    """Length of one route; see `scan_dataset` for the arguments."""
    folder = root / town / route
    counts: dict[str, int] = {}
    num_files = 0
    try:
        for name in folders:
            counts[name], seen = _contiguous_frames(folder / name)
            num_files += seen
        recorded = counts['measurements']
        complete = min(counts.values())
        number_of = partial(_read_number, folder / 'measurements')
        usable, rule = usable_frames(recorded, partial(number_of, 'speed'), result)
        usable = min(usable, complete)
        headings = range(usable) if check_headings else ()
        invalid = tuple(frame for frame in headings if math.isnan(number_of('theta', frame)))
    except MalformedRouteError as error:
        return RouteScan(town, route, problem=str(error), num_files=num_files)
    problem = ''
    if complete < recorded:
        first = next(name for name in folders if counts[name] == complete)
        problem = f'{first} ends before frame {complete:04d}, measurements before {recorded:04d}'
    record = RouteRecord(recorded, usable, rule, invalid)
    return RouteScan(town, route, record, problem, num_files)


def _scan_job(
    root: Path, folders: tuple[str, ...], check_headings: bool, job: tuple[str, str, RouteResult | None]
) -> RouteScan:
    town, route, result = job
    return scan_route(root, town, route, folders, result, check_headings)


def _map(
    function: Callable[[tuple[str, str, RouteResult | None]], RouteScan],
    jobs: list[tuple[str, str, RouteResult | None]],
    workers: int,
) -> Iterable[RouteScan]:
    if workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, len(jobs) // (workers * 8)))


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _contiguous_frames(folder: Path) -> tuple[int, int]:
    """Frames 0, 1, ... without a gap or an empty last file, and the number of files seen.

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
    # A killed recorder leaves its last file empty; earlier ones were closed before the next began.
    while count and suffix and os.path.getsize(folder / f'{count - 1:04d}.{next(iter(suffix))}') == 0:
        count -= 1
    return count, len(names)


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
