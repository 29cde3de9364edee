"""Read frames as training would, to find unusable files before training does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .calibration import Calibration, load_calibration
from .metadata import DatasetMetadata, RouteRecord
from .pipelines.images import read_class_ids
from .pipelines.measurements import read_pose
from .storage import RouteReader, SampleReadError, open_storage


@dataclass(frozen=True)
class CheckTask:
    """One route to read.

    Attributes:
        root: root of the dataset.
        town: town folder.
        route: route folder in it.
        frames: number of frames to read, from 0.
        backend_args: arguments of mmengine's file backend.
    """

    root: str
    town: str
    route: str
    frames: int
    backend_args: dict | None = None


@dataclass
class CheckReport:
    """Problems of one route.

    Attributes:
        town: town folder.
        route: route folder in it.
        frames: number of frames that were read.
        problems: for each frame and folder, the file and what is wrong with it.
    """

    town: str
    route: str
    frames: int = 0
    problems: dict[int, dict[str, str]] = field(default_factory=dict)


def check_frame(reader: RouteReader, calibration: Calibration, frame: int) -> dict[str, str]:
    """Read all files of a frame that samples use.

    Args:
        reader: reader of the route.
        calibration: calibration of the dataset.
        frame: frame number.

    Returns:
        For each folder with a problem, the file and what is wrong with it.
    """
    size = calibration.stored_size
    checks: dict[str, Callable[[], Any]] = {
        'measurements': partial(read_pose, reader, frame),
        'supervision': partial(reader.supervision, frame),
        'lidar': partial(reader.points, frame),
    }
    for camera in calibration.cameras:
        checks[camera.rgb] = partial(reader.rgb, camera.rgb, frame, size)
        checks[camera.depth] = partial(reader.depth_code, camera.depth, frame, size)
        checks[camera.seg] = partial(read_class_ids, reader, camera.seg, frame, calibration)
    problems = {}
    for folder, check in checks.items():
        try:
            check()
        except SampleReadError as error:
            problems[folder] = str(error)
    return problems


def check_route(task: CheckTask) -> CheckReport:
    """Read all frames of a route; a route that can't be opened has problems in every frame."""
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
    """Exclude the frames with problems from a dataset's samples.

    Damaged frames at the end of a route shorten it; others are listed as
    ``invalid_frames``, which no sample may use. Frames are never added back.

    Args:
        metadata: current metadata of the dataset.
        reports: reports of all or some routes.

    Returns:
        New metadata; the rule of a changed route ends with "repaired".
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
