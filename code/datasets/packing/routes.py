"""Packing and verifying of one route, the unit of work of a process and of resuming."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinktwice.files import remove_file

from ..calibration import load_calibration
from ..frame_check import check_frame
from ..pipelines.measurements import NO_HEADING
from ..storage import SampleReadError, open_storage
from ..storage.route_zip import SUFFIX, RouteZip, write_route
from .frames import FramePacker, file_suffixes
from .settings import PackSettings


@dataclass(frozen=True)
class RouteTask:
    """One route to pack.

    Attributes:
        source: Root of the recorded dataset.
        destination: Root of the packed dataset.
        town: Town folder.
        route: Route folder in it.
        frames: Frames to pack, from 0.
        settings: What to keep.
        backend_args: Arguments of mmengine's file backend, for the source.
    """

    source: str
    destination: str
    town: str
    route: str
    frames: int
    settings: PackSettings
    backend_args: dict | None = None


@dataclass
class RouteReport:
    """The result of one route.

    Attributes:
        name: Town and route.
        frames: Frames in the file.
        size: Bytes of the file.
        was_done: Whether an earlier run had packed it.
        damaged: Reason by ``folder/frame``.
        error: Why the route is not packed; empty if it is.
    """

    name: str
    frames: int = 0
    size: int = 0
    was_done: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    error: str = ''


def pack_route(task: RouteTask) -> RouteReport:
    """Pack a route unless an earlier run has, and read it back.

    Args:
        task: What to pack.

    Returns:
        ``error`` says what went wrong: a bad file, a full disk or a bad source raise nothing.
    """
    report = RouteReport(f'{task.town}/{task.route}')
    try:
        _pack_route(task, report)
    except (OSError, SampleReadError, ValueError) as error:
        report.error = f'{type(error).__name__}: {error}'
    return report


def _pack_route(task: RouteTask, report: RouteReport) -> None:
    storage = open_storage(task.source, task.backend_args)
    calibration = load_calibration(storage)
    target = Path(task.destination) / task.town / f'{task.route}{SUFFIX}'
    description = {'town': task.town, 'route': task.route, 'settings': task.settings.to_dict()}
    report.was_done = _is_done(target, description, task.frames)
    if not report.was_done:
        for leftover in target.parent.glob(f'.{target.name}.*.tmp'):  # of a run that was killed
            remove_file(leftover)
        packer, reader = FramePacker(calibration, task.settings), storage.route(task.town, task.route)
        frames = (packer.pack(reader, frame) for frame in range(task.frames))
        write_route(target, description, file_suffixes(calibration, task.settings), frames)
    _read_back(target, report)


def _is_done(target: Path, description: dict[str, Any], frames: int) -> bool:
    """Whether a complete file holds what would be written."""
    try:
        route = RouteZip(str(target))
    except SampleReadError:
        return False
    route.close()
    return route.num_frames == frames and description.items() <= route.description.items()


def _read_back(target: Path, report: RouteReport) -> None:
    """Compare every checksum of a complete file, and collect what was unusable in the source."""
    route = RouteZip(str(target))
    try:
        for frame in range(route.num_frames):
            for folder in route.suffixes:
                if f'{folder}/{frame:04d}' not in route.damaged:
                    route.read(folder, frame)
    finally:
        route.close()
    report.frames, report.size, report.damaged = route.num_frames, target.stat().st_size, route.damaged


def verify_route(destination: str, route: tuple[str, str, int]) -> RouteReport:
    """Read a packed route as training would: checksums, decoding, shapes, ranges.

    Args:
        destination: Root of the packed dataset.
        route: Town folder, route in it, and number of frames that it must hold.

    Returns:
        ``damaged`` lists what cannot be used.
    """
    town, name, frames = route
    report = RouteReport(f'{town}/{name}')
    path = Path(destination) / town / f'{name}{SUFFIX}'
    try:
        storage = open_storage(destination)
        calibration, reader = load_calibration(storage), storage.route(town, name)
        packed = RouteZip(str(path))
        packed.close()
        report.frames, report.size = packed.num_frames, path.stat().st_size
        if packed.num_frames != frames:
            raise SampleReadError(str(path), f'holds {packed.num_frames} frames, the metadata say {frames}')
    except (OSError, SampleReadError, ValueError) as error:
        report.error = f'{type(error).__name__}: {error}'
        return report
    for frame in range(frames):
        for folder, reason in check_frame(reader, calibration, frame).items():
            if not reason.endswith(NO_HEADING):  # so in the recording
                report.damaged[f'{folder}/{frame:04d}'] = reason
    return report
