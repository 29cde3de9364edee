"""Find the routes of a recorded dataset and their usable frames, reading as little as possible.

A failed route is cut before its failure. A collision or a red light ends the recording at once, so its
last frames lead into the accident. A vehicle that is blocked or runs out of time stands still for minutes,
of which only a few frames are kept.

Directories are listed instead of opening every file. Of the contents, only the speeds that decide where a
route is cut are read. Works on local datasets only.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from thinktwice.errors import describe

from .calibration import Calibration
from .jobs import run_tasks
from .metadata import DatasetMetadata, RouteRecord, is_safe_name

TOWN_PREFIX = 'town'
ALWAYS_NEEDED = ('measurements', 'supervision', 'lidar')
FRAMES_BEFORE_FAILURE = 10  # 5 s at 2 Hz
FRAMES_AFTER_LAST_MOTION = 5
MOVING_SPEED = 0.1  # m/s
FULL_SCORE = 100.0

STANDSTILL = ('route_timeout', 'vehicle_blocked')
ACCIDENTS = ('red_light', 'collisions_pedestrian', 'collisions_vehicle', 'collisions_layout')


@dataclass(frozen=True)
class RouteResult:
    """Score of one recorded route, 0..100, types of its infractions, frames as in ``RouteRecord``."""

    score: float
    infractions: frozenset[str]
    disturbed_frames: tuple[int, ...] = ()


@dataclass
class Results:
    """Scores of the recording runs by route folder, and the reason for each file that was unreadable."""

    by_route: dict[str, RouteResult] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def last_motion(speed_of: Callable[[int], float], limit: int) -> int:
    """Largest frame i with 1 <= i < limit in which the vehicle moved, else 0; reads backward from there."""
    return next((i for i in range(limit - 1, 0, -1) if speed_of(i) > MOVING_SPEED), 0)


def usable_frames(
    frames: int, speed_of: Callable[[int], float], result: RouteResult | None
) -> tuple[int, str]:
    """Number of usable frames of a route, from 0 on, and the rule that determined it.

    Args:
        frames: number of recorded frames.
        speed_of: returns the speed of a frame in m/s; called only where the rule needs it.
        result: score of the route, None if there is none.

    Returns:
        The number, and ``complete``, ``standstill``, ``accident``, ``unrated`` (no decisive score: cut to
        be safe) or ``short``.
    """
    if result is not None:
        if result.score >= FULL_SCORE:
            return frames, 'complete'
        if result.infractions & set(STANDSTILL):
            return min(frames, last_motion(speed_of, frames) + FRAMES_AFTER_LAST_MOTION), 'standstill'
        if result.infractions & set(ACCIDENTS):
            return max(0, frames - FRAMES_BEFORE_FAILURE), 'accident'
    if frames <= FRAMES_BEFORE_FAILURE:
        return 0, 'short'
    kept = frames - FRAMES_BEFORE_FAILURE
    return min(kept, last_motion(speed_of, kept) + FRAMES_AFTER_LAST_MOTION), 'unrated'


def read_results(*folders: Path) -> Results:
    """Read all ``*_results.json`` of folders that may not exist; unreadable files are listed, not fatal."""
    results = Results()
    for path in (path for folder in folders for path in sorted(folder.glob('*_results.json'))):
        try:
            records = json.loads(path.read_bytes())['_checkpoint']['records']
            results.by_route.update([_parse_record(record) for record in records])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            results.unreadable[str(path)] = describe(error)
    return results


def _parse_record(record: Mapping[str, Any]) -> tuple[str, RouteResult]:
    route = str(record['meta']['folder_name']).rstrip('/').rsplit('/', 1)[-1]
    infractions = frozenset(kind for kind, events in record['infractions'].items() if events)
    disturbed = tuple(int(frame) for frame in record.get('disturbed_frames', ()))
    return route, RouteResult(float(record['scores']['score_composed']), infractions, disturbed)


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


class MalformedRouteError(ValueError):
    """A route folder is not in the recorded format."""


def needed_folders(calibration: Calibration) -> tuple[str, ...]:
    """Folders of a route that a sample reads."""
    images = [folder for camera in calibration.cameras for folder in (camera.rgb, camera.depth, camera.seg)]
    return (*ALWAYS_NEEDED, *images)


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
    scan = Scan()
    tasks: list[tuple[str, str, RouteResult | None]] = []
    for town in _folders(root):
        for route in _folders(root / town) if town.startswith(TOWN_PREFIX) else ():
            if is_safe_name(town) and is_safe_name(route):
                tasks.append((town, route, results.by_route.get(route)))
            else:
                scan.malformed[f'{town}/{route}'] = 'the folder name has characters that are not allowed'
    found = run_tasks(partial(_scan_route, root, folders, check_headings), tasks, workers)
    scans = list(tqdm(found, total=len(tasks), unit='route', file=sys.stderr, disable=None))
    for town, route, record, problem in sorted(scans, key=lambda one: one[:2]):
        if record is None:
            scan.malformed[f'{town}/{route}'] = problem
            continue
        scan.metadata.towns.setdefault(town, {})[route] = record
        if problem:
            scan.incomplete[f'{town}/{route}'] = problem
    return scan


def _scan_route(
    root: Path, folders: Sequence[str], check_headings: bool, task: tuple[str, str, RouteResult | None]
) -> tuple[str, str, RouteRecord | None, str]:
    """Town index, route, its record unless it is malformed, and what is wrong with it."""
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
        return town, route, None, str(error)
    problem = ''
    if complete < recorded:
        first = next(name for name in folders if counts[name] == complete)
        problem = f'{first} ends before frame {complete:04d}, measurements before {recorded:04d}'
    disturbed = result.disturbed_frames if result else ()
    return town, route, RouteRecord(recorded, usable, rule, invalid, disturbed), problem


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
        raise MalformedRouteError(f'{path}: {describe(error)}') from error
