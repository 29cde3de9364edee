"""Packing and verifying of whole datasets."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinktwice.files import write_atomically

from ..calibration import CALIBRATION_FILE, Calibration, calibration_to_dict, load_calibration
from ..metadata import DatasetMetadata, load_metadata, save_metadata
from ..storage import open_storage
from ..storage.packed import PACKED_FILE
from ..storage.route_zip import FORMAT_VERSION
from .jobs import run_tasks
from .routes import RouteReport, RouteTask, pack_route, verify_route
from .settings import PackSettings, packed_calibration, stored_geometry


@dataclass(frozen=True)
class Execution:
    """Where the routes are processed.

    Attributes:
        workers: Processes on this machine.
        ray_address: A Ray cluster instead.
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
        root: Root of the dataset.
        backend_args: Arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: There are no metadata.
        ValueError: They are malformed.
    """
    return len(_routes(load_metadata(open_storage(root, backend_args), root)))


def pack_dataset(
    source: str,
    destination: str,
    settings: PackSettings,
    execution: Execution | None = None,
    backend_args: dict | None = None,
) -> Iterator[RouteReport]:
    """Pack all usable frames of a dataset; routes that an earlier run finished are skipped.

    The source is only read. The metadata are written last, when every route is complete: without them
    the destination is not taken for a dataset.

    Args:
        source: Root of the recorded dataset.
        destination: Root of the packed one.
        settings: What to keep.
        execution: Where to work; None for this process.
        backend_args: Arguments of mmengine's file backend, for the source.

    Yields:
        One report per route, in the order in which they finish.

    Raises:
        FileNotFoundError: The source has no metadata.
        ValueError: The destination is inside the source or the other way round, or holds data packed
            with other settings.
        WriteError: The destination cannot be written.
    """
    execution = execution or Execution()
    source, destination = _separate(source, destination)
    storage = open_storage(source, backend_args)
    metadata = load_metadata(storage, source)
    tasks = [
        RouteTask(source, destination, town, route, frames, settings, backend_args)
        for town, route, frames in _routes(metadata)
    ]
    if not tasks:
        raise ValueError(f'{source}: its metadata list no routes')
    _describe(Path(destination), settings, load_calibration(storage))
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
        write_atomically(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def verify_dataset(destination: str, execution: Execution | None = None) -> Iterator[RouteReport]:
    """Read every file of a packed dataset as training would.

    Args:
        destination: Root of the packed dataset.
        execution: Where to work; None for this process.

    Yields:
        One report per route.

    Raises:
        FileNotFoundError: Packing has not been finished.
    """
    execution = execution or Execution()
    routes = _routes(load_metadata(open_storage(destination), destination))
    yield from run_tasks(partial(verify_route, destination), routes, execution.workers, execution.ray_address)
