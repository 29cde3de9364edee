"""Packing, checking and unpacking of one route: the unit of work of every process."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..calibration import calibration_to_dict, load_calibration
from ..frame_check import check_frame
from ..pipelines.measurements import NO_HEADING
from ..storage import RouteFileReader, RouteFileWriter, SampleReadError, open_storage
from ..storage.packed import DAMAGE_RECORD
from ..storage.route_file import SUFFIX
from .frames import FramePacker, record_names
from .settings import PackSettings, packed_calibration, stored_geometry


@dataclass(frozen=True)
class RouteTask:
    """One route to pack.

    Attributes:
        source (str): Root of the recorded dataset.
        destination (str): Root of the packed dataset.
        town (str): Town folder.
        route (str): Route folder in it.
        frames (int): Frames to pack, from 0.
        settings (PackSettings): What to keep.
        backend_args (dict | None): Of mmengine's file backend, for the source.
    """

    source: str
    destination: str
    town: str
    route: str
    frames: int
    settings: PackSettings
    backend_args: dict | None = None

    @property
    def target(self) -> Path:
        """The file to write.

        Returns:
            Path: Below ``destination``.
        """
        return Path(self.destination) / self.town / f'{self.route}{SUFFIX}'


@dataclass
class RouteReport:
    """What became of one route.

    Attributes:
        name (str): Town and route.
        frames (int): Frames in the file.
        size (int): Bytes of the file.
        was_done (bool): Whether an earlier run had packed it.
        damaged (dict[str, str]): Reason by ``folder/frame``.
        error (str): Why it is not done; empty if it is.
    """

    name: str
    frames: int = 0
    size: int = 0
    was_done: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    error: str = ''


def pack_route(task: RouteTask) -> RouteReport:
    """Pack a route, going on where an earlier run stopped, and read it back.

    Args:
        task (RouteTask): What to pack.

    Returns:
        RouteReport: Never raises for a bad file, a full disk or a bad source:
            ``error`` says it.
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
    header = route_header(task, calibration_to_dict(calibration), record_names(calibration))
    report.was_done = _is_done(task.target, header, task.frames)
    if not report.was_done:
        packer, reader = FramePacker(calibration, task.settings), storage.route(task.town, task.route)
        with RouteFileWriter(task.target, header) as writer:
            for frame in range(writer.frames, task.frames):
                writer.append(packer.pack(reader, frame)[0])
            writer.finish()
    _read_back(task.target, report)


def route_header(task: RouteTask, source: dict[str, Any], folders: list[str]) -> dict[str, Any]:
    """Describe a route file, so that it can be understood alone.

    Args:
        task (RouteTask): What is packed.
        source (dict[str, Any]): Calibration of the source, JSON form.
        folders (list[str]): Record names.

    Returns:
        dict[str, Any]: JSON values.
    """
    return {
        'town': task.town,
        'route': task.route,
        'folders': folders,
        'settings': task.settings.to_dict(),
        'source_calibration': source,
    }


def _is_done(target: Path, header: dict[str, Any], frames: int) -> bool:
    """Whether a finished file holds just what would be written."""
    if not target.is_file():
        return False
    try:
        file = RouteFileReader(str(target))
    except SampleReadError:
        return False
    found = {key: file.header.get(key) for key in header}
    file.close()
    # Through JSON, as the file went.
    return file.num_frames == frames and found == json.loads(json.dumps(header))


def _read_back(target: Path, report: RouteReport) -> None:
    """Check every checksum of a finished file, and collect what the source lacked."""
    file = RouteFileReader(str(target))
    try:
        for frame in range(file.num_frames):
            for folder in file.folders:
                if file.has(folder, frame):
                    data = file.read(folder, frame)
                    if folder == DAMAGE_RECORD:
                        reasons = json.loads(data)
                        report.damaged.update({f'{k}/{frame:04d}': v for k, v in reasons.items()})
        report.frames, report.size = file.num_frames, os.path.getsize(target)
    finally:
        file.close()


def verify_route(destination: str, town: str, route: str, frames: int) -> RouteReport:
    """Read a packed route as training would: checksums, decoding, shapes, ranges.

    Args:
        destination (str): Root of the packed dataset.
        town (str): Town folder.
        route (str): Route in it.
        frames (int): Frames that it must hold.

    Returns:
        RouteReport: ``damaged`` lists what can't be read (also what the source
            lacked), ``error`` says if the file as a whole can't.
    """
    report = RouteReport(f'{town}/{route}')
    try:
        storage = open_storage(destination)
        calibration, reader = load_calibration(storage), storage.route(town, route)
        path = Path(destination) / town / f'{route}{SUFFIX}'
        file = RouteFileReader(str(path))
        file.close()
        report.frames, report.size = file.num_frames, path.stat().st_size
        if file.num_frames != frames:
            raise SampleReadError(str(path), f'holds {file.num_frames} frames, the metadata say {frames}')
    except (OSError, SampleReadError, ValueError) as error:
        report.error = f'{type(error).__name__}: {error}'
        return report
    for frame in range(frames):
        problems = check_frame(reader, calibration, frame)
        for folder, why in problems.items():
            if not why.endswith(NO_HEADING):  # a gap of the recording, packed as it was
                report.damaged[f'{folder}/{frame:04d}'] = why
    return report


def packed_calibration_of(task: RouteTask) -> dict[str, Any]:
    """Give the calibration of the packed dataset.

    Args:
        task (RouteTask): Any route of it.

    Returns:
        dict[str, Any]: JSON form.
    """
    calibration = load_calibration(open_storage(task.source, task.backend_args))
    return calibration_to_dict(packed_calibration(calibration, stored_geometry(calibration, task.settings)))
