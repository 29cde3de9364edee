"""The recorded format: one small file for each modality, camera and frame.

Files are read through mmengine's file backends, so a root may be a folder, an ``http://`` address, a
bucket behind petrel, or (with ``backend='lmdb'``) an LMDB whose keys are the relative paths.
"""

import urllib.error
from typing import Any

import numpy as np
from mmengine.fileio import BaseStorageBackend, LocalBackend, get_file_backend

from .base import DatasetStorage, RouteReader, check_name
from .errors import SampleReadError
from .images import decode_png
from .records import parse_measurements, parse_points, parse_supervision

MAX_FILE_BYTES = 256 * 2**20


class FileReader:
    """Reads whole files through one of mmengine's backends, with one kind of error.

    Args:
        root: Root of the dataset.
        backend_args: Arguments of :func:`mmengine.fileio.get_file_backend`; None chooses by the prefix of
            the root (local without one).
    """

    def __init__(self, root: str, backend_args: dict | None = None) -> None:
        self.root = root.rstrip('/') if len(root) > 1 else root
        self.backend_args = backend_args
        self._backend: BaseStorageBackend | None = None

    def __getstate__(self) -> dict[str, Any]:
        # clients hold sockets or memory maps: each process makes its own
        return {'root': self.root, 'backend_args': self.backend_args, '_backend': None}

    @property
    def backend(self) -> BaseStorageBackend:
        """The client of mmengine, made when first needed."""
        if self._backend is None:
            # one client per process: an LMDB cannot be opened twice in it
            self._backend = get_file_backend(self.root, backend_args=self.backend_args, enable_singleton=True)
        return self._backend

    @property
    def is_local(self) -> bool:
        """Whether the files are in a local or mounted folder, not at an address or in a database."""
        return isinstance(self.backend, LocalBackend)

    def location(self, relative: str) -> str:
        """The path that the backend is asked for, given the one inside the dataset."""
        if not self.root:  # keys of a key-value backend
            return relative
        return f'{self.root}/{relative}' if relative else self.root

    def read(self, relative: str) -> bytes:
        """Read a file, by its path inside the dataset.

        Raises:
            SampleReadError: It cannot be read.
        """
        path = self.location(relative)
        try:
            data = self.backend.get(path)
        except urllib.error.HTTPError as error:
            missing = error.code in (404, 410)
            raise SampleReadError(path, f'the server answers {error.code} {error.reason}', missing) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SampleReadError(path, 'the file does not exist', missing=True) from error
        except MemoryError:
            raise
        # each backend has errors of its own (urllib, lmdb, petrel)
        except Exception as error:
            raise SampleReadError(path, f'cannot be read ({type(error).__name__}: {error})') from error
        if data is None:  # from key-value backends
            raise SampleReadError(path, 'the key does not exist', missing=True)
        data = bytes(data)
        if len(data) > MAX_FILE_BYTES:
            raise SampleReadError(path, f'{len(data)} bytes, more than {MAX_FILE_BYTES}')
        return data

    def exists(self, relative: str) -> bool:
        """Whether a file exists, by its path inside the dataset; only local files are not read for it.

        Raises:
            SampleReadError: The storage cannot be reached.
        """
        if isinstance(self.backend, LocalBackend):
            return self.backend.isfile(self.location(relative))
        try:
            self.read(relative)
        except SampleReadError as error:
            if error.missing:
                return False
            raise
        return True


class RawRouteReader(RouteReader):
    """Reads one route of the recorded format.

    Args:
        files: Reader at the root of the dataset.
        town: Town folder, such as ``town01_00``.
        route: Route folder in it.
    """

    def __init__(self, files: FileReader, town: str, route: str) -> None:
        super().__init__(town, route)
        self._files = files

    def _relative(self, folder: str, frame: int, suffix: str) -> str:
        return f'{self.town}/{self.route}/{check_name(folder, "folder")}/{int(frame):04d}.{suffix}'

    def _read(self, folder: str, frame: int, suffix: str) -> tuple[bytes, str]:
        relative = self._relative(folder, frame, suffix)
        return self._files.read(relative), self._files.location(relative)

    def path(self, folder: str, frame: int) -> str:
        """See :meth:`RouteReader.path`."""
        suffix = {'measurements': 'json', 'supervision': 'npy', 'lidar': 'npy'}.get(folder, 'png')
        return self._files.location(self._relative(folder, frame, suffix))

    def measurements(self, frame: int) -> dict[str, Any]:
        """See :meth:`RouteReader.measurements`."""
        return parse_measurements(*self._read('measurements', frame, 'json'))

    def supervision(self, frame: int) -> dict[str, Any]:
        """See :meth:`RouteReader.supervision`."""
        return parse_supervision(*self._read('supervision', frame, 'npy'))

    def points(self, frame: int) -> np.ndarray:
        """See :meth:`RouteReader.points`."""
        return parse_points(*self._read('lidar', frame, 'npy'))

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.rgb`."""
        return decode_png(*self._read(folder, frame, 'png'), size, channels=3)

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.depth_code`."""
        return decode_png(*self._read(folder, frame, 'png'), size, channels=3)

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """See :meth:`RouteReader.class_ids`."""
        return decode_png(*self._read(folder, frame, 'png'), size, channels=1)

    def image_bytes(self, folder: str, frame: int) -> bytes:
        """See :meth:`RouteReader.image_bytes`."""
        return self._read(folder, frame, 'png')[0]


class RawStorage(DatasetStorage):
    """A dataset in the recorded format.

    Args:
        root: Folder or address.
        backend_args: Arguments of mmengine's file backend.
    """

    def __init__(self, root: str, backend_args: dict | None = None) -> None:
        self._files = FileReader(root, backend_args)

    def route(self, town: str, route: str) -> RawRouteReader:
        """See :meth:`DatasetStorage.route`."""
        return RawRouteReader(self._files, town, route)

    def exists(self, name: str) -> bool:
        """See :meth:`DatasetStorage.exists`."""
        return self._files.exists(check_name(name, 'file'))

    def read_bytes(self, name: str) -> bytes:
        """See :meth:`DatasetStorage.read_bytes`."""
        return self._files.read(check_name(name, 'file'))

    def location(self, name: str = '') -> str:
        """See :meth:`DatasetStorage.location`."""
        return self._files.location(name)
