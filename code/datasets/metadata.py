"""Which routes a dataset holds and how many frames of each may be used.

``dataset_metadata.json`` at the dataset's root::

    {"schema_version": 1,
     "towns": {"town01_00": {"routes_town01_00_07_15_10_20_30":
         {"frames": 120, "usable": 110, "rule": "collision", "invalid_frames": [17]}}}}

``frames`` and ``rule`` are for people; ``invalid_frames`` is optional and lists frames that no
sample may touch (a NaN heading, an unreadable file). The 2023 pickle
``{town: {"../town/route": usable}}`` is read where there is no JSON, by the restricted unpickler.
"""

import json
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thinktwice.files import write_atomically

from .storage.base import check_name
from .storage.errors import SampleReadError
from .storage.unpickle import restricted_loads

JSON_NAME = 'dataset_metadata.json'
PICKLE_NAME = 'dataset_metadata.pkl'
SCHEMA_VERSION = 1

_PICKLE_PREFIX = re.compile(r'(\.\./)?(dataset/)?')


@dataclass(frozen=True)
class RouteRecord:
    """One recorded drive.

    Attributes:
        frames: frames on disk.
        usable: frames 0 .. usable - 1 may be used.
        rule: why the drive was cut where it was.
        invalid_frames: frames that no sample may touch, ascending.
    """

    frames: int
    usable: int
    rule: str = ''
    invalid_frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetMetadata:
    """Routes by town index (``town01_00``), in the order in which samples are enumerated."""

    towns: dict[str, dict[str, RouteRecord]] = field(default_factory=dict)


class ReadableStorage(Protocol):
    """What `load_metadata` needs of a dataset's storage."""

    def read_bytes(self, path: str) -> bytes:
        """Contents of a file, by its path under the dataset's root."""


def load_metadata(storage: ReadableStorage, root: str) -> DatasetMetadata:
    """Read the metadata at a dataset's root, the JSON if there is one, else the pickle.

    Args:
        storage: the dataset's storage.
        root: the dataset's root, for messages.

    Raises:
        FileNotFoundError: if the dataset holds neither file.
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
        f'{root} holds no {JSON_NAME} (nor {PICKLE_NAME}). If it has recorded drives (townNN_XX/...), run '
        f'`python tools/generate_metadata.py {root}`; otherwise put a dataset there, set data_root in the '
        f'config to where one is, or record one: `{recording_command(root)}`'
    )


def recording_command(root: str) -> str:
    """The command that records a small dataset at a root."""
    return f'python tools/record_minitown.py {root} --routes 8 --frames 40'


def parse_json(data: bytes | str, path: str) -> DatasetMetadata:
    """Read and check the JSON form.

    Args:
        data: contents of the file.
        path: where they came from, for the message.

    Raises:
        ValueError: if the text is not JSON or not of this schema.
    """
    try:
        tree = json.loads(data)
    except ValueError as error:
        raise ValueError(f'{path}: not a JSON file ({error}); generate it anew') from error
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
    """Read the 2023 pickle ``{town: {"../town/route": usable}}``; nothing in it is run.

    Args:
        data: contents of the file.
        path: where they came from, for the message.

    Raises:
        ValueError: if the tree has another form, or a route lies outside its town.
        SampleReadError: if the pickle is damaged or asks for anything but plain data.
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


def _route_of_pickle_key(folder: Any, town: str, where: str) -> str:
    if isinstance(folder, str):
        relative = _PICKLE_PREFIX.sub('', folder, count=1)
        parent, _, route = relative.partition('/')
        if parent == town and is_safe_name(route):
            return route
    raise ValueError(f"{where}: refused, a route must read '../{town}/<route>'")


def is_safe_name(name: Any) -> bool:
    """Whether a town or route is one plain folder name, which can't lead out of the dataset."""
    try:
        check_name(name, 'folder')
    except SampleReadError:
        return False
    return True


def _check_name(name: Any, path: str) -> str:
    if not is_safe_name(name):
        raise ValueError(f'{path}: refused the name {name!r}; a town or route is one plain folder name')
    return str(name)


def _check_count(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f'{where}: expected a number of frames >= 0, got {value!r}')
    return value


def _parse_record(record: Any, where: str) -> RouteRecord:
    if not isinstance(record, dict):
        raise ValueError(f'{where}: expected an object with frames, usable and rule')
    usable = _check_count(record.get('usable'), f'{where}.usable')
    frames = _check_count(record.get('frames', usable), f'{where}.frames')
    if usable > frames:
        raise ValueError(f'{where}: usable is {usable} but there are only {frames} frames')
    invalid = record.get('invalid_frames', [])
    if not isinstance(invalid, list):
        raise ValueError(f'{where}.invalid_frames: expected a list of frames')
    invalid_frames = sorted({_check_count(frame, f'{where}.invalid_frames') for frame in invalid})
    return RouteRecord(frames, usable, str(record.get('rule', '')), tuple(invalid_frames))


def to_json(metadata: DatasetMetadata, **extra: Any) -> str:
    """The JSON text of a dataset's metadata; `extra` keys are for people and ignored by readers."""
    towns: dict[str, dict[str, dict[str, Any]]] = {}
    for town, routes in metadata.towns.items():
        towns[town] = {}
        for route, record in routes.items():
            entry: dict[str, Any] = {
                'frames': record.frames,
                'usable': record.usable,
                'rule': record.rule,
            }
            if record.invalid_frames:
                entry['invalid_frames'] = list(record.invalid_frames)
            towns[town][route] = entry
    return json.dumps({'schema_version': SCHEMA_VERSION, **extra, 'towns': towns}, indent=1) + '\n'


def to_pickle(metadata: DatasetMetadata) -> bytes:
    """The 2023 pickle of a dataset's metadata: plain dictionaries, text and integers."""
    tree = {
        town: {f'../{town}/{route}': record.usable for route, record in routes.items()}
        for town, routes in metadata.towns.items()
    }
    return pickle.dumps(tree, protocol=2)


def save_metadata(metadata: DatasetMetadata, root: str | Path, **extra: Any) -> tuple[Path, Path]:
    """Write both forms to a local dataset root; each file appears whole or not at all.

    Args:
        metadata: what to write.
        root: an existing folder.
        extra: further keys of the JSON, for people.

    Returns:
        The paths of the JSON and of the pickle.
    """
    json_path, pickle_path = Path(root) / JSON_NAME, Path(root) / PICKLE_NAME
    write_atomically(json_path, lambda file: file.write(to_json(metadata, **extra).encode()))
    write_atomically(pickle_path, lambda file: file.write(to_pickle(metadata)))
    return json_path, pickle_path
