"""Reading frames as training would, to find what can't be used before training does."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .calibration import Calibration, load_calibration
from .metadata import DatasetMetadata, RouteRecord
from .pixels import check_class_ids
from .storage import RouteReader, SampleReadError, open_storage

NO_HEADING = 'theta is NaN, the frame has no heading'


@dataclass(frozen=True)
class CheckTask:
    """One route to read.

    Attributes:
        root (str): Root of the dataset.
        town (str): Town folder.
        route (str): Route in it.
        frames (int): Frames to read, from 0.
        backend_args (dict | None): Of mmengine's file backend.
    """

    root: str
    town: str
    route: str
    frames: int
    backend_args: dict | None = None


@dataclass
class CheckReport:
    """What was found in one route.

    Attributes:
        town (str): Town folder.
        route (str): Route in it.
        frames (int): Frames that were read.
        problems (dict[int, dict[str, str]]): By frame, then by folder, the
            file and what is wrong with it.
    """

    town: str
    route: str
    frames: int = 0
    problems: dict[int, dict[str, str]] = field(default_factory=dict)


def check_frame(reader: RouteReader, calibration: Calibration, frame: int) -> dict[str, str]:
    """Read all files of a frame that samples use.

    Args:
        reader (RouteReader): Of the route.
        calibration (Calibration): Of the dataset.
        frame (int): Frame number.

    Returns:
        dict[str, str]: By folder, the file and what is wrong with it; empty if
            nothing is.
    """
    size = calibration.stored_size
    checks: dict[str, Callable[[], Any]] = {
        'measurements': partial(_check_measurements, reader, frame),
        'supervision': partial(reader.supervision, frame),
        'lidar': partial(reader.points, frame),
    }
    for camera in calibration.cameras:
        checks[camera.rgb] = partial(reader.rgb, camera.rgb, frame, size)
        checks[camera.depth] = partial(reader.depth_code, camera.depth, frame, size)
        checks[camera.seg] = partial(_check_classes, reader, camera.seg, frame, calibration)
    problems = {}
    for folder, check in checks.items():
        try:
            check()
        except SampleReadError as error:
            problems[folder] = str(error)
    return problems


def _check_measurements(reader: RouteReader, frame: int) -> None:
    if math.isnan(reader.measurements(frame)['theta']):
        raise SampleReadError(reader.path('measurements', frame), NO_HEADING)


def _check_classes(reader: RouteReader, folder: str, frame: int, calibration: Calibration) -> None:
    class_ids = reader.class_ids(folder, frame, calibration.stored_size)
    try:
        check_class_ids(class_ids, calibration.lights_split)
    except ValueError as error:
        raise SampleReadError(reader.path(folder, frame), str(error)) from error


def check_route(task: CheckTask) -> CheckReport:
    """Read all frames of a route.

    Args:
        task (CheckTask): Which.

    Returns:
        CheckReport: What was found; a route that can't be opened has problems
            in every frame.
    """
    storage = open_storage(task.root, task.backend_args)
    calibration = load_calibration(storage)
    report = CheckReport(task.town, task.route, task.frames)
    reader = storage.route(task.town, task.route)
    for frame in range(task.frames):
        problems = check_frame(reader, calibration, frame)
        if problems:
            report.problems[frame] = problems
    return report


def repaired_metadata(metadata: DatasetMetadata, reports: Sequence[CheckReport]) -> DatasetMetadata:
    """Leave the frames with problems out of a dataset's samples.

    Damaged frames at a route's end shorten it; those before are listed as
    ``invalid_frames``, which no sample may touch. Nothing is added back.

    Args:
        metadata (DatasetMetadata): As they are.
        reports (Sequence[CheckReport]): Of all routes, or of some.

    Returns:
        DatasetMetadata: New metadata; the rule of a changed route says so.
    """
    found = {(report.town, report.route): report for report in reports if report.problems}
    towns = {
        town: {
            route: _repaired(record, found[town, route]) if (town, route) in found else record
            for route, record in routes.items()
        }
        for town, routes in metadata.towns.items()
    }
    return DatasetMetadata(towns)


def _repaired(record: RouteRecord, report: CheckReport) -> RouteRecord:
    invalid = set(record.invalid_frames) | set(report.problems)
    usable = record.usable
    while usable > 0 and usable - 1 in invalid:
        usable -= 1
    rule = record.rule if record.rule.endswith('repaired') else f'{record.rule}, repaired'.lstrip(', ')
    invalid_frames = tuple(sorted(frame for frame in invalid if frame < usable))
    return replace(record, usable=usable, rule=rule, invalid_frames=invalid_frames)
