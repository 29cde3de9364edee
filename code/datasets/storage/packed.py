"""The packed format: one ZIP file per route, with images that are small and undistorted.

At the root are ``packed.json`` (format version, settings and calibration of the source), the metadata and
the calibration. The calibration is that of the stored images, so whatever follows the reading is the same
for both formats.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from .base import DatasetStorage, RouteReader, check_name
from .compact import decode_points, decode_supervision
from .errors import SampleReadError
from .images import PNG_SIGNATURE, decode_jpeg, decode_png
from .raw import FileReader
from .records import parse_json, parse_measurements
from .route_zip import FORMAT_VERSION, SUFFIX, OpenRoutes, member_path

PACKED_FILE = 'packed.json'


class PackedRouteReader(RouteReader):
    """Reads one packed route.

    Args:
        root: Folder of the dataset.
        routes: Open routes of the dataset.
        town: Town folder, such as ``town01_00``.
        route: Route in it.
    """

    def __init__(self, root: str, routes: OpenRoutes, town: str, route: str) -> None:
        super().__init__(town, route)
        self._path = f'{root}/{self.town}/{self.route}{SUFFIX}'
        self._routes = routes

    def _read(self, folder: str, frame: int) -> tuple[bytes, str]:
        route, frame = self._routes.get(self._path), int(frame)
        return route.read(folder, frame), self.path(folder, frame)

    def path(self, folder: str, frame: int) -> str:
        """See :meth:`RouteReader.path`."""
        return member_path(self._path, folder, int(frame))

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
        root: The folder.

    Raises:
        SampleReadError: It was packed in another version of the format.
    """

    def __init__(self, root: str) -> None:
        self._root = root.rstrip('/') or '/'
        self._files = FileReader(self._root, {'backend': 'local'})
        self._routes = OpenRoutes()
        path = self.location(PACKED_FILE)
        description = parse_json(self.read_bytes(PACKED_FILE), path)
        version = description.get('format_version') if isinstance(description, dict) else None
        if version != FORMAT_VERSION:
            raise SampleReadError(
                path,
                f'packed in format {version!r}, this version reads {FORMAT_VERSION}: pack the recorded '
                'dataset again into a new folder (python tools/pack_dataset.py SOURCE DESTINATION)',
            )

    def route(self, town: str, route: str) -> PackedRouteReader:
        """See :meth:`DatasetStorage.route`."""
        return PackedRouteReader(self._root, self._routes, town, route)

    def exists(self, name: str) -> bool:
        """See :meth:`DatasetStorage.exists`."""
        return self._files.exists(check_name(name, 'file'))

    def read_bytes(self, name: str) -> bytes:
        """See :meth:`DatasetStorage.read_bytes`."""
        return self._files.read(check_name(name, 'file'))

    def location(self, name: str = '') -> str:
        """See :meth:`DatasetStorage.location`."""
        return self._files.location(name)


def is_packed(root: str | os.PathLike) -> bool:
    """Whether a folder holds a packed dataset."""
    return (Path(root) / PACKED_FILE).is_file()
