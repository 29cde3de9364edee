"""Packing and verifying of datasets; a route is the unit of work of a process and of resuming."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thinktwice.errors import describe
from thinktwice.files import remove_file, write_text

from ..calibration import CALIBRATION_FILE, Calibration, calibration_to_dict, load_calibration
from ..frame_check import check_frame
from ..jobs import run_tasks
from ..metadata import load_metadata, save_metadata
from ..pipelines.measurements import NO_HEADING
from ..storage import DatasetStorage, SampleReadError
from ..storage.readers import PACKED_FILE
from ..storage.route_zip import FORMAT_VERSION, SUFFIX, RouteZip, write_route
from .frames import FramePacker, PackSettings, file_suffixes, packed_calibration, stored_geometry


@dataclass
class RouteReport:
    """The result of one route.

    Attributes:
        name: Town and route.
        frames: Frames in the file.
        size: Bytes of the file.
        was_done: Whether an earlier run had packed it.
        damaged: Reason by ``folder/frame``.
        error: Why the route is not packed or cannot be read; empty if there is nothing.
    """

    name: str
    frames: int = 0
    size: int = 0
    was_done: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    error: str = ''


def pack_dataset(
    source: str,
    destination: str,
    settings: PackSettings,
    workers: int = 1,
    ray_address: str | None = None,
) -> Iterator[RouteReport]:
    """Pack all usable frames of a dataset; routes that an earlier run finished are skipped.

    The source is only read. The metadata are written last, when every route is complete: without them
    the destination is not taken for a dataset.

    Args:
        source: Root of the recorded dataset.
        destination: Root of the packed one.
        settings: What to keep.
        workers: Processes on this machine.
        ray_address: A Ray cluster instead.

    Yields:
        One report per route, in the order in which they finish.

    Raises:
        FileNotFoundError: The source has no metadata.
        ValueError: The destination is inside the source or the other way round, or holds data packed
            with other settings.
        WriteError: The destination cannot be written.
    """
    source, destination = _separate(source, destination)
    storage = DatasetStorage(source)
    metadata = load_metadata(storage, source)
    tasks = [(town, route, record.usable) for town, route, record in metadata.routes()]
    if not tasks:
        raise ValueError(f'{source}: its metadata list no routes')
    _describe(Path(destination), settings, load_calibration(storage))
    complete = True
    for report in run_tasks(partial(_pack_route, source, destination, settings), tasks, workers, ray_address):
        complete &= not report.error
        yield report
    if complete:
        save_metadata(metadata, destination)


def _separate(source: str, destination: str) -> tuple[str, str]:
    if '://' in destination:
        raise ValueError(f'{destination}: the destination must be a local or mounted folder')
    destination = os.path.realpath(destination)
    if '://' in source or not source:
        return source, destination
    source = os.path.realpath(source)
    for inner, outer in ((source, destination), (destination, source)):
        if os.path.commonpath([inner, outer]) == outer:
            raise ValueError(f'{destination} and {source} are inside each other: choose another folder')
    return source, destination


def _describe(destination: Path, settings: PackSettings, calibration: Calibration) -> None:
    """Write the files at the root, or check that they are the same."""
    stored = packed_calibration(calibration, stored_geometry(calibration, settings))
    description = {
        'format_version': FORMAT_VERSION,
        'settings': settings.to_dict(),
        'source_calibration': calibration_to_dict(calibration),
    }
    for name, content in ((PACKED_FILE, description), (CALIBRATION_FILE, calibration_to_dict(stored))):
        path, text = destination / name, json.dumps(content, indent=1) + '\n'
        if path.is_file() and path.read_text() != text:
            raise ValueError(
                f'{path} is of other settings, another dataset or another version of the format: choose '
                'another folder or remove this one'
            )
        write_text(path, text)


def _pack_route(
    source: str, destination: str, settings: PackSettings, task: tuple[str, str, int]
) -> RouteReport:
    """Pack a route unless an earlier run has, and read it back.

    A bad file, a full disk or a bad source raise nothing: the report says what went wrong.
    """
    town, route, frames = task
    report = RouteReport(f'{town}/{route}')
    target = Path(destination) / town / f'{route}{SUFFIX}'
    description = {'town': town, 'route': route, 'settings': settings.to_dict()}
    try:
        storage = DatasetStorage(source)
        calibration, reader = load_calibration(storage), storage.route(town, route)
        report.was_done = _is_done(target, description, frames)
        if not report.was_done:
            for leftover in target.parent.glob(f'.{target.name}.*.tmp'):  # of a run that was killed
                remove_file(leftover)
            packer = FramePacker(calibration, settings)
            packed = (packer.pack(reader, frame) for frame in range(frames))
            write_route(target, description, file_suffixes(calibration, settings), packed)
        _read_back(target, report)
    except (OSError, SampleReadError, ValueError) as error:
        report.error = describe(error)
    return report


def _is_done(target: Path, description: dict, frames: int) -> bool:
    """Whether a complete file holds what would be written."""
    try:
        with closing(RouteZip(str(target))) as route:
            return route.num_frames == frames and description.items() <= route.description.items()
    except SampleReadError:
        return False


def _read_back(target: Path, report: RouteReport) -> None:
    """Compare every checksum of a complete file, and collect what was unusable in the source."""
    with closing(RouteZip(str(target))) as route:
        for frame in range(route.num_frames):
            for folder in route.suffixes:
                if f'{folder}/{frame:04d}' not in route.damaged:
                    route.read(folder, frame)
    report.frames, report.size, report.damaged = route.num_frames, target.stat().st_size, route.damaged


def verify_dataset(
    destination: str, workers: int = 1, ray_address: str | None = None
) -> Iterator[RouteReport]:
    """Read every file of a packed dataset as training would: checksums, decoding, shapes, ranges.

    Yields:
        One report per route; ``damaged`` lists what cannot be used.

    Raises:
        FileNotFoundError: Packing has not been finished.
    """
    metadata = load_metadata(DatasetStorage(destination), destination)
    tasks = [(town, route, record.usable) for town, route, record in metadata.routes()]
    yield from run_tasks(partial(_verify_route, destination), tasks, workers, ray_address)


def _verify_route(destination: str, task: tuple[str, str, int]) -> RouteReport:
    town, name, frames = task
    report = RouteReport(f'{town}/{name}')
    path = Path(destination) / town / f'{name}{SUFFIX}'
    try:
        storage = DatasetStorage(destination)
        calibration, reader = load_calibration(storage), storage.route(town, name)
        with closing(RouteZip(str(path))) as packed:
            report.frames, report.size = packed.num_frames, path.stat().st_size
        if packed.num_frames != frames:
            raise SampleReadError(str(path), f'holds {packed.num_frames} frames, the metadata say {frames}')
    except (OSError, SampleReadError, ValueError) as error:
        report.error = describe(error)
        return report
    for frame in range(frames):
        for folder, reason in check_frame(reader, calibration, frame).items():
            if not reason.endswith(NO_HEADING):  # so in the recording
                report.damaged[f'{folder}/{frame:04d}'] = reason
    return report
