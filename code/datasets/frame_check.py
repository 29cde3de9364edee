"""Read frames as training would, to find unusable files before training does."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .calibration import Calibration, load_calibration
from .labels import read_class_ids
from .metadata import DatasetMetadata, RouteRecord
from .pipelines.measurements import read_pose
from .storage import DatasetStorage, RouteReader, SampleReadError


@dataclass
class CheckReport:
    """Problems of one route: for each frame and folder, the file and what is wrong with it."""

    town: str
    route: str
    frames: int
    problems: dict[int, dict[str, str]]


def check_frame(reader: RouteReader, calibration: Calibration, frame: int) -> dict[str, str]:
    """Read all files of a frame that samples use.

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


def check_route(root: str, task: tuple[str, str, int]) -> CheckReport:
    """Read the first frames of a route; one that can't be opened has problems in every frame.

    Args:
        root: root of the dataset.
        task: town index, route, and number of frames to read.
    """
    town, route, frames = task
    storage = DatasetStorage(root)
    calibration, reader = load_calibration(storage), storage.route(town, route)
    found = {frame: check_frame(reader, calibration, frame) for frame in range(frames)}
    return CheckReport(
        town, route, frames, {frame: problems for frame, problems in found.items() if problems}
    )


def repaired_metadata(metadata: DatasetMetadata, reports: Sequence[CheckReport]) -> DatasetMetadata:
    """Exclude the frames with problems from a dataset's samples.

    Damaged frames at the end of a route shorten it; others are listed as
    ``invalid_frames``, which no sample may use. Frames are never added back.

    Returns:
        New metadata; the rule of a changed route ends with "repaired".
    """
    towns = {town: dict(routes) for town, routes in metadata.towns.items()}
    for report in reports:
        if report.problems:
            towns[report.town][report.route] = _repaired(towns[report.town][report.route], report.problems)
    return DatasetMetadata(towns)


def _repaired(record: RouteRecord, problems: Iterable[int]) -> RouteRecord:
    invalid = {*record.invalid_frames, *problems}
    usable = record.usable
    while usable > 0 and usable - 1 in invalid:
        usable -= 1
    rule = record.rule if record.rule.endswith('repaired') else f'{record.rule}, repaired'.lstrip(', ')
    invalid_frames = tuple(sorted(frame for frame in invalid if frame < usable))
    return replace(record, usable=usable, rule=rule, invalid_frames=invalid_frames)
