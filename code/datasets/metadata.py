"""Metadata of a dataset: its routes and the number of usable frames of each.

``dataset_metadata.json`` at the root of the dataset::

    {"schema_version": 1,
     "towns": {"town01_00": {"routes_town01_00_07_15_10_20_30":
         {"frames": 120, "usable": 110, "rule": "collision", "invalid_frames": [17]}}}}

``frames`` and ``rule`` are informative only. Two lists are optional: ``invalid_frames``, frames that no
sample may use (a NaN heading, an unreadable file), and ``disturbed_frames``, frames after which, until the
next one, the expert did not drive alone, so that no sample's future may contain this time. Without the
JSON file, the 2023 pickle ``{town: {"../town/route": usable}}`` is read by the restricted unpickler.
"""

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thinktwice.errors import describe
from thinktwice.files import write_atomically, write_json

from .storage import DatasetStorage, SampleReadError, check_name, restricted_loads

JSON_NAME = 'dataset_metadata.json'
PICKLE_NAME = 'dataset_metadata.pkl'
SCHEMA_VERSION = 1
FRAME_LISTS = ('invalid_frames', 'disturbed_frames')

_PICKLE_PREFIX = re.compile(r'(\.\./)?(dataset/)?')


@dataclass(frozen=True)
class RouteRecord:
    """One recorded drive.

    Attributes:
        frames: number of frames on disk.
        usable: number of usable frames, from 0 on.
        rule: rule by which the drive was cut.
        invalid_frames: frames that no sample may use, ascending.
        disturbed_frames: frames between which and the next one the expert did not drive alone, ascending.
    """

    frames: int
    usable: int
    rule: str = ''
    invalid_frames: tuple[int, ...] = ()
    disturbed_frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetMetadata:
    """Routes by town index (``town01_00``), in the order in which samples are enumerated."""

    towns: dict[str, dict[str, RouteRecord]] = field(default_factory=dict)

    def routes(self) -> Iterator[tuple[str, str, RouteRecord]]:
        """Town index, route and record of every drive."""
        for town, routes in self.towns.items():
            for route, record in routes.items():
                yield town, route, record


def load_metadata(storage: DatasetStorage, root: str) -> DatasetMetadata:
    """Read the metadata of a dataset: the JSON file if there is one, else the pickle.

    Raises:
        FileNotFoundError: if the dataset has neither file.
        ValueError: if the file is malformed; the message names the file and the entry.
        SampleReadError: if the file can't be read.
    """
    for name, parse in ((JSON_NAME, parse_json), (PICKLE_NAME, parse_pickle)):
        try:
            data = storage.read_bytes(name)
        except SampleReadError as error:
            if not error.missing:
                raise
            continue
        return parse(data, f'{root.rstrip("/")}/{name}')
    raise FileNotFoundError(
        f'{root} has no {JSON_NAME} (nor {PICKLE_NAME}). If it has recorded drives (townNN_XX/...) or clips '
        f'of Bench2Drive, run `python tools/generate_metadata.py {root}`; otherwise put a dataset there, set '
        f'data_root in the config to where one is, or record one: `{recording_command(root)}`'
    )


def recording_command(root: str) -> str:
    """Command line that records a small dataset at a root."""
    return f'python tools/record_minitown.py {root} --routes 8 --frames 40'


def parse_json(data: bytes, path: str) -> DatasetMetadata:
    """Parse and check the JSON form, of the file at ``path``.

    Raises:
        ValueError: if the text is not JSON, has a key twice, or does not follow this schema.
    """
    try:
        tree = json.loads(data.decode('utf-8-sig'), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not a valid JSON file ({describe(error)}); generate it again') from error
    if not isinstance(tree, dict) or not isinstance(tree.get('towns'), dict):
        raise ValueError(f'{path}: expected an object with the keys schema_version and towns')
    if tree.get('schema_version') != SCHEMA_VERSION:
        raise ValueError(
            f'{path}: schema_version is {tree.get("schema_version")!r}, this version reads {SCHEMA_VERSION}'
        )
    towns: dict[str, dict[str, RouteRecord]] = {}
    for town, routes in tree['towns'].items():
        _check_name(town, path)
        if not isinstance(routes, dict):
            raise ValueError(f'{path}: towns.{town} must be an object of routes')
        towns[town] = {
            _check_name(route, path): _parse_record(record, f'{path}: {town}/{route}')
            for route, record in routes.items()
        }
    return DatasetMetadata(towns)


def parse_pickle(data: bytes, path: str) -> DatasetMetadata:
    """Parse the 2023 pickle ``{town: {"../town/route": usable}}`` without executing code.

    Raises:
        ValueError: if the structure differs, or a route is outside its town.
        SampleReadError: if the pickle is damaged or contains anything but plain data.
    """
    tree = restricted_loads(data, path)
    if not isinstance(tree, dict) or not all(isinstance(routes, dict) for routes in tree.values()):
        raise ValueError(f'{path}: expected a dictionary of towns, each a dictionary of routes')
    towns: dict[str, dict[str, RouteRecord]] = {}
    for town, routes in tree.items():
        _check_name(town, path)
        towns[town] = {}
        for folder, usable in routes.items():
            where = f'{path}: {town}[{folder!r}]'
            route = _route_of_pickle_key(folder, town, where)
            usable = _check_count(usable, where)
            towns[town][route] = RouteRecord(frames=usable, usable=usable, rule='imported')
    return DatasetMetadata(towns)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key {next(key for key in found if keys.count(key) > 1)!r} occurs twice')
    return found


def _route_of_pickle_key(folder: Any, town: str, where: str) -> str:
    if isinstance(folder, str):
        relative = _PICKLE_PREFIX.sub('', folder, count=1)
        parent, _, route = relative.partition('/')
        if parent == town and is_safe_name(route):
            return route
    raise ValueError(f"{where}: refused, a route must have the form '../{town}/<route>'")


def is_safe_name(name: Any) -> bool:
    """Whether a town or route is a plain folder name that can't lead outside the dataset."""
    try:
        return bool(check_name(name, 'folder'))
    except SampleReadError:
        return False


def _check_name(name: Any, path: str) -> str:
    if not is_safe_name(name):
        raise ValueError(f'{path}: refused the name {name!r}; a town or route must be a plain folder name')
    return str(name)


def _check_count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f'{where}: expected a number of frames >= 0, got {value!r}')
    return int(value)


def _parse_record(record: Any, where: str) -> RouteRecord:
    if not isinstance(record, dict):
        raise ValueError(f'{where}: expected an object with frames, usable and rule')
    usable = _check_count(record.get('usable'), f'{where}.usable')
    frames = _check_count(record.get('frames', usable), f'{where}.frames')
    if usable > frames:
        raise ValueError(f'{where}: usable is {usable} but there are only {frames} frames')
    invalid, disturbed = (_frame_list(record, key, where) for key in FRAME_LISTS)
    return RouteRecord(frames, usable, str(record.get('rule', '')), invalid, disturbed)


def _frame_list(record: dict[str, Any], key: str, where: str) -> tuple[int, ...]:
    frames = record.get(key, [])
    if not isinstance(frames, list):
        raise ValueError(f'{where}.{key}: expected a list of frames')
    return tuple(sorted({_check_count(frame, f'{where}.{key}') for frame in frames}))


def save_metadata(metadata: DatasetMetadata, root: str | Path, **extra: Any) -> tuple[Path, Path]:
    """Write both forms to a folder, each file atomically.

    Args:
        metadata: metadata to write.
        root: folder to write to; created if necessary.
        extra: further keys of the JSON, informative and ignored when read.

    Returns:
        The paths of the JSON and of the pickle.

    Raises:
        WriteError: if a file can't be written.
    """
    records: dict[str, dict[str, dict[str, Any]]] = {town: {} for town in metadata.towns}
    counts: dict[str, dict[str, int]] = {town: {} for town in metadata.towns}
    for town, route, record in metadata.routes():
        fields = vars(record).items()
        records[town][route] = {key: value for key, value in fields if value or key not in FRAME_LISTS}
        counts[town][f'../{town}/{route}'] = record.usable
    tree = {'schema_version': SCHEMA_VERSION, **extra, 'towns': records}
    json_path, pickle_path = Path(root) / JSON_NAME, Path(root) / PICKLE_NAME
    write_json(json_path, tree)
    write_atomically(pickle_path, lambda file: file.write(pickle.dumps(counts, protocol=2)))
    return json_path, pickle_path
