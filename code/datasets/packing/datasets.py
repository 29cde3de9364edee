"""Packing, checking and unpacking of whole datasets."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..calibration import CALIBRATION_FILE
from ..metadata import DatasetMetadata, load_metadata, save_metadata
from ..storage import is_packed, open_storage
from ..storage.packed import PACKED_FILE
from ..storage.route_file import FORMAT_VERSION
from .jobs import run_tasks
from .routes import RouteReport, RouteTask, pack_route, packed_calibration_of, verify_route
from .settings import PackSettings
from .unpack import UnpackTask, unpack_route


@dataclass(frozen=True)
class Execution:
    """Where the work is done.

    Attributes:
        workers (int): Processes on this machine.
        ray_address (str | None): A Ray cluster instead.
    """

    workers: int = 1
    ray_address: str | None = None


def _routes(metadata: DatasetMetadata) -> list[tuple[str, str, int]]:
    return [
        (town, route, record.usable)
        for town, routes in metadata.towns.items()
        for route, record in routes.items()
    ]


def count_routes(root: str, backend_args: dict | None = None) -> int:
    """Count the routes in a dataset's metadata.

    Args:
        root (str): Root of the dataset.
        backend_args (dict | None): Of mmengine's file backend.

    Returns:
        int: Number of routes.

    Raises:
        FileNotFoundError: If there are no metadata.
        ValueError: If they are malformed.
    """
    return len(_routes(load_metadata(open_storage(root, backend_args), root)))


def pack_dataset(
    source: str,
    destination: str,
    settings: PackSettings,
    execution: Execution | None = None,
    backend_args: dict | None = None,
) -> Iterator[RouteReport]:
    """Pack all usable frames of a dataset; going on where an earlier run stopped.

    The source is only read. The destination gets its metadata last, when every
    route is done: until then it does not pass for a dataset.

    Args:
        source (str): Root of the recorded dataset.
        destination (str): Root of the packed one.
        settings (PackSettings): What to keep.
        execution (Execution | None): Where to work; None for this process.
        backend_args (dict | None): Of mmengine's file backend, for the source.

    Yields:
        RouteReport: One a route, as they are done.

    Raises:
        FileNotFoundError: If the source has no metadata.
        ValueError: If the destination lies inside the source or the other way
            round, or holds data packed with other settings.
    """
    execution = execution or Execution()
    source, destination = _separate(source, destination)
    metadata = load_metadata(open_storage(source, backend_args), source)
    tasks = [
        RouteTask(source, destination, town, route, frames, settings, backend_args)
        for town, route, frames in _routes(metadata)
    ]
    if not tasks:
        raise ValueError(f'{source}: its metadata list no routes')
    _describe(Path(destination), settings, packed_calibration_of(tasks[0]))
    complete = True
    for report in run_tasks(pack_route, tasks, execution.workers, execution.ray_address):
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
            raise ValueError(f'{destination} and {source} lie inside each other: choose another folder')
    return source, destination


def _describe(destination: Path, settings: PackSettings, calibration: dict[str, Any]) -> None:
    """Write the files at the root, or check that they say the same."""
    description = {'format_version': FORMAT_VERSION, 'settings': settings.to_dict()}
    for name, content in ((PACKED_FILE, description), (CALIBRATION_FILE, calibration)):
        path, text = destination / name, json.dumps(content, indent=1) + '\n'
        if path.is_file() and path.read_text() != text:
            raise ValueError(
                f'{path} is of other settings or another dataset: choose another folder or remove this one'
            )
        destination.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'.{name}.{os.getpid()}')
        temporary.write_text(text)
        os.replace(temporary, path)


def _verify(destination: str, route: tuple[str, str, int]) -> RouteReport:
    return verify_route(destination, *route)


def verify_dataset(destination: str, execution: Execution | None = None) -> Iterator[RouteReport]:
    """Read every record of a packed dataset as training would.

    Args:
        destination (str): Root of the packed dataset.
        execution (Execution | None): Where to work; None for this process.

    Yields:
        RouteReport: One a route.

    Raises:
        FileNotFoundError: If packing has not been finished.
    """
    execution = execution or Execution()
    routes = _routes(load_metadata(open_storage(destination), destination))
    yield from run_tasks(partial(_verify, destination), routes, execution.workers, execution.ray_address)


def unpack_dataset(
    source: str, destination: str, execution: Execution | None = None
) -> Iterator[RouteReport]:
    """Turn a packed dataset back into one small file for each modality, camera and frame.

    Args:
        source (str): Root of the packed dataset.
        destination (str): Root of the dataset to write.
        execution (Execution | None): Where to work; None for this process.

    Yields:
        RouteReport: One a route.

    Raises:
        ValueError: If the source is not packed, or the folders lie inside each other.
    """
    execution = execution or Execution()
    source, destination = _separate(source, destination)
    if not is_packed(source):
        raise ValueError(f'{source} is not a packed dataset (no {PACKED_FILE})')
    storage = open_storage(source)
    metadata = load_metadata(storage, source)
    calibration = storage.read_bytes(CALIBRATION_FILE)
    tasks = [UnpackTask(source, destination, *route) for route in _routes(metadata)]
    Path(destination).mkdir(parents=True, exist_ok=True)
    (Path(destination) / CALIBRATION_FILE).write_bytes(calibration)
    complete = True
    for report in run_tasks(unpack_route, tasks, execution.workers, execution.ray_address):
        complete &= not report.error
        yield report
    if complete:
        save_metadata(metadata, destination)
