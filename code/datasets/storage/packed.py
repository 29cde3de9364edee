"""The packed format: one file a route, colour and labels small and ready to sample.

At the root lie ``packed.json`` (format version and settings), the metadata and
the calibration. The calibration describes the stored images (undistorted,
smaller, cropped), so everything after reading is the same for both formats.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from .base import DatasetStorage, RouteReader, check_name
from .codecs import decode_points, decode_supervision
from .errors import SampleReadError
from .images import PNG_SIGNATURE, decode_jpeg, decode_png
from .raw import FileReader
from .records import parse_json, parse_measurements
from .route_file import FORMAT_VERSION, SUFFIX, RouteFileReader

PACKED_FILE = 'packed.json'
# Holds, for frames with unreadable source files, {folder: reason} as JSON.
DAMAGE_RECORD = 'damage'
MAX_OPEN_FILES = 64


class OpenRouteFiles:
    """The most recently used route files, kept open; each process opens its own.

    Args:
        limit (int): Number of files kept open.
    """

    def __init__(self, limit: int = MAX_OPEN_FILES) -> None:
        self._limit = limit
        self._files: OrderedDict[str, RouteFileReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {'_limit': self._limit, '_files': OrderedDict()}

    def get(self, path: str) -> RouteFileReader:
        """Open a file or find it open.

        Args:
            path (str): The file.

        Returns:
            RouteFileReader: Its reader.

        Raises:
            SampleReadError: If it can't be opened.
        """
        if path in self._files:
            self._files.move_to_end(path)
        else:
            self._files[path] = RouteFileReader(path)
            if len(self._files) > self._limit:
                self._files.popitem(last=False)[1].close()
        return self._files[path]


class PackedRouteReader(RouteReader):
    """Reads one packed route.

    Args:
        root (str): Folder of the dataset.
        files (OpenRouteFiles): Open files of the dataset.
        town (str): Town folder, such as ``town01_00``.
        route (str): Route in it.
    """

    def __init__(self, root: str, files: OpenRouteFiles, town: str, route: str) -> None:
        super().__init__(town, route)
        self._path = f'{root}/{self.town}/{self.route}{SUFFIX}'
        self._files = files

    def _read(self, folder: str, frame: int) -> tuple[bytes, str]:
        file, frame = self._files.get(self._path), int(frame)
        if not file.has(folder, frame) and file.has(DAMAGE_RECORD, frame):
            name = file.name(DAMAGE_RECORD, frame)
            reasons = parse_json(file.read(DAMAGE_RECORD, frame), name)
            if isinstance(reasons, dict) and folder in reasons:
                raise SampleReadError(
                    file.name(folder, frame), f'was unusable when packed: {reasons[folder]}'
                )
        return file.read(folder, frame), file.name(folder, frame)

    def path(self, folder: str, frame: int) -> str:
        """See :meth:`RouteReader.path`."""
        return f'{self._path}:{folder}/{int(frame):04d}'

    def measurements(self, frame: int) -> dict[str, Any]:
        """See :meth:`RouteReader.measurements`."""
        return parse_measurements(*self._read('measurements', frame))

    def supervision(self, frame: int) -> dict[str, Any]:
        """See :meth:`RouteReader.supervision`."""
        return decode_supervision(*self._read('supervision', frame))

    def points(self, frame: int) -> np.ndarray:
        """See :meth:`RouteReader.points`."""
        return decode_points(*self._read('lidar', frame))

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.rgb`."""
        data, name = self._read(folder, frame)
        if data.startswith(PNG_SIGNATURE):
            return decode_png(data, name, size, channels=3)
        return decode_jpeg(data, name, size)

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.depth_code`."""
        return decode_png(*self._read(folder, frame), size, channels=1, bits=16)

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.class_ids`."""
        return decode_png(*self._read(folder, frame), size, channels=1)

    def image_bytes(self, folder: str, frame: int) -> bytes:
        """See :meth:`RouteReader.image_bytes`."""
        return self._read(folder, frame)[0]


class PackedStorage(DatasetStorage):
    """A packed dataset in a local or mounted folder.

    Args:
        root (str): The folder.

    Raises:
        ValueError: If it was packed by another version of the format.
    """

    def __init__(self, root: str) -> None:
        self._root = root.rstrip('/') or '/'
        self._beside = FileReader(self._root, {'backend': 'local'})
        self._files = OpenRouteFiles()
        path = self.location(PACKED_FILE)
        description = parse_json(self.read_bytes(PACKED_FILE), path)
        version = description.get('format_version') if isinstance(description, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f'{path}: format version {version!r}, this version reads {FORMAT_VERSION}; '
                'pack the dataset again'
            )
        self.description: dict[str, Any] = description

    def route(self, town: str, route: str) -> PackedRouteReader:
        """See :meth:`DatasetStorage.route`."""
        return PackedRouteReader(self._root, self._files, town, route)

    def exists(self, name: str) -> bool:
        """See :meth:`DatasetStorage.exists`."""
        return self._beside.exists(check_name(name, 'file'))

    def read_bytes(self, name: str) -> bytes:
        """See :meth:`DatasetStorage.read_bytes`."""
        return self._beside.read(check_name(name, 'file'))

    def location(self, name: str = '') -> str:
        """See :meth:`DatasetStorage.location`."""
        return self._beside.location(name)


def is_packed(root: str | os.PathLike) -> bool:
    """Say whether a folder holds a packed dataset.

    Args:
        root (str | os.PathLike): The folder.

    Returns:
        bool: Whether it does.
    """
    return (Path(root) / PACKED_FILE).is_file()
