"""Datasets and their routes, in three formats.

Recorded: one small file for each modality, camera and frame. Files are read through mmengine's file
backends, so a root may be a folder, an ``http://`` address, a bucket behind petrel, or (with
``backend='lmdb'``) an LMDB whose keys are the relative paths.

Packed: one ZIP file for each route in a local or mounted folder. At the root are ``packed.json`` (format
version, settings and calibration of the source), the metadata and the calibration of the stored images,
so whatever follows the reading is the same for all formats.

Clips of Bench2Drive: as downloaded, in a local or mounted folder; ``bench2drive.json`` at the root lists
them, see :mod:`.bench2drive`.
"""

import os
import urllib.error
from abc import ABC, abstractmethod
from typing import Any

import cv2
import numpy as np
from mmengine.fileio import BaseStorageBackend, LocalBackend, get_file_backend

from thinktwice.errors import describe

from .bench2drive import (
    CLASS_TABLE,
    CLIPS_FILE,
    FRAMES_PER_STEP,
    PHASES,
    action_of,
    flag_of,
    measurements_of,
    parse_annotation,
    parse_clips,
    parse_depth,
    parse_expert,
    parse_laz,
    require_laspy,
)
from .errors import SampleReadError, check_name
from .frame_files import (
    TEACHER_MAP_SHAPES,
    decode_points,
    decode_supervision,
    parse_json,
    parse_measurements,
    parse_points,
    parse_supervision,
)
from .images import PNG_SIGNATURE, decode_jpeg, decode_png
from .route_zip import FORMAT_VERSION, SUFFIX, OpenRoutes, member_path

PACKED_FILE = 'packed.json'
MAX_FILE_BYTES = 256 * 2**20


class RouteReader(ABC):
    """Reads the files of one route's frames.

    ``folder`` is that of the recorded format, such as ``rgb_front``; ``size`` is the (height, width)
    that an image must have. Every method that reads raises :class:`SampleReadError`, naming the file,
    if the file is missing, damaged or not as the format requires.
    """

    @abstractmethod
    def path(self, folder: str, frame: int) -> str:
        """Full path or address of the file of one frame, for messages and metadata."""

    @abstractmethod
    def measurements(self, frame: int) -> dict[str, Any]:
        """Read the ego state of a frame as recorded; ``theta`` may be NaN."""

    @abstractmethod
    def supervision(self, frame: int) -> dict[str, Any]:
        """Read the teacher's outputs of a frame; a map in ``cnn_features`` is None if it was not stored."""

    @abstractmethod
    def points(self, frame: int) -> np.ndarray:
        """Read the LiDAR sweep of a frame: (P, 4) float32, ego frame of that frame."""

    @abstractmethod
    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a color image: (H, W, 3) uint8, RGB."""

    @abstractmethod
    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a depth image as codes for ``decode_depth``: (H, W, 3) uint8, packed (H, W) uint16."""

    @abstractmethod
    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        """Read a semantic image: (H, W) uint8, class ids of the simulator."""


class DatasetStorage:
    """The root of a dataset: gives readers of routes and the files beside them.

    Files are opened when they are first read. Can be sent to worker processes.

    Args:
        root: Folder or address. A packed dataset or clips of Bench2Drive must be in a local or mounted
            folder.
        backend_args: Arguments of mmengine's file backend (``dict(backend='lmdb', db_path=...)``, ...);
            None chooses by the prefix of ``root`` (local without one).

    Raises:
        SampleReadError: It was packed in another version of the format, or its list of clips is damaged.
        ConfigError: It holds clips of Bench2Drive, and laspy is not installed.
    """

    def __init__(self, root: str | os.PathLike, backend_args: dict | None = None) -> None:
        root = os.fspath(root)
        self._root = root.rstrip('/') or root[:1]
        self._backend_args = backend_args
        self._backend: BaseStorageBackend | None = None
        self._packed_routes: OpenRoutes | None = None
        self._clips: dict[str, str] | None = None
        if not isinstance(self.backend, LocalBackend):
            return
        if os.path.isfile(self.location(PACKED_FILE)):
            self._check_version()
            self._packed_routes = OpenRoutes()
        elif os.path.isfile(self.location(CLIPS_FILE)):
            require_laspy()
            self._clips = parse_clips(self.read_bytes(CLIPS_FILE), self.location(CLIPS_FILE))

    def __getstate__(self) -> dict[str, Any]:
        # clients hold sockets or memory maps: each process makes its own
        return {**self.__dict__, '_backend': None}

    @property
    def backend(self) -> BaseStorageBackend:
        """The client of mmengine, made when first needed."""
        if self._backend is None:
            # one client per process: an LMDB cannot be opened twice in it
            self._backend = get_file_backend(
                self._root, backend_args=self._backend_args, enable_singleton=True
            )
        return self._backend

    def location(self, relative: str) -> str:
        """Full path or address of a path inside the dataset, for the backend and for messages."""
        return f'{self._root}/{relative}' if self._root else relative  # keys of a key-value backend

    def route(self, town: str, route: str) -> RouteReader:
        """Give a reader of one route; nothing is opened yet.

        Raises:
            SampleReadError: A name could lead out of the dataset.
        """
        name = f'{check_name(town, "town")}/{check_name(route, "route")}'
        if self._packed_routes is not None:
            return _PackedRoute(self._packed_routes, self.location(f'{name}{SUFFIX}'))
        if self._clips is not None:
            if route not in self._clips or town[-1] not in map(str, PHASES):
                raise SampleReadError(self.location(name), f'not in {CLIPS_FILE}', missing=True)
            return _ClipRoute(self, self._clips[route], int(town[-1]))
        return _RecordedRoute(self, name)

    def read_bytes(self, relative: str) -> bytes:
        """Read a file, by its path inside the dataset.

        Raises:
            SampleReadError: It cannot be read; ``missing`` says whether it does not exist.
        """
        for part in relative.split('/'):
            check_name(part, 'file or folder')
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
            raise SampleReadError(path, f'cannot be read ({describe(error)})') from error
        if data is None:  # from key-value backends
            raise SampleReadError(path, 'the key does not exist', missing=True)
        data = bytes(data)
        if len(data) > MAX_FILE_BYTES:
            raise SampleReadError(path, f'{len(data)} bytes, more than {MAX_FILE_BYTES}')
        return data

    def _check_version(self) -> None:
        path = self.location(PACKED_FILE)
        description = parse_json(self.read_bytes(PACKED_FILE), path)
        version = description.get('format_version') if isinstance(description, dict) else None
        if version != FORMAT_VERSION:
            raise SampleReadError(
                path,
                f'packed in format {version!r}, this version reads {FORMAT_VERSION}: pack the recorded '
                'dataset again into a new folder (python tools/pack_dataset.py SOURCE DESTINATION)',
            )


class _RecordedRoute(RouteReader):
    def __init__(self, storage: DatasetStorage, name: str) -> None:
        self._storage, self._name = storage, name

    def _relative(self, folder: str, frame: int) -> str:
        suffix = {'measurements': 'json', 'supervision': 'npy', 'lidar': 'npy'}.get(folder, 'png')
        return f'{self._name}/{folder}/{int(frame):04d}.{suffix}'

    def _read(self, folder: str, frame: int) -> tuple[bytes, str]:
        return self._storage.read_bytes(self._relative(folder, frame)), self.path(folder, frame)

    def path(self, folder: str, frame: int) -> str:
        return self._storage.location(self._relative(folder, frame))

    def measurements(self, frame: int) -> dict[str, Any]:
        return parse_measurements(*self._read('measurements', frame))

    def supervision(self, frame: int) -> dict[str, Any]:
        return parse_supervision(*self._read('supervision', frame))

    def points(self, frame: int) -> np.ndarray:
        return parse_points(*self._read('lidar', frame))

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_png(*self._read(folder, frame), size)

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_png(*self._read(folder, frame), size)

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_png(*self._read(folder, frame), size, channels=1)


class _PackedRoute(RouteReader):
    def __init__(self, routes: OpenRoutes, file: str) -> None:
        self._routes, self._file = routes, file

    def _read(self, folder: str, frame: int) -> tuple[bytes, str]:
        return self._routes.get(self._file).read(folder, int(frame)), self.path(folder, frame)

    def path(self, folder: str, frame: int) -> str:
        return member_path(self._file, folder, int(frame))

    def measurements(self, frame: int) -> dict[str, Any]:
        return parse_measurements(*self._read('measurements', frame))

    def supervision(self, frame: int) -> dict[str, Any]:
        return decode_supervision(*self._read('supervision', frame))

    def points(self, frame: int) -> np.ndarray:
        return decode_points(*self._read('lidar', frame))

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        data, name = self._read(folder, frame)
        decode = decode_png if data.startswith(PNG_SIGNATURE) else decode_jpeg
        return decode(data, name, size)

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_png(*self._read(folder, frame), size, channels=1, bits=16)

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_png(*self._read(folder, frame), size, channels=1)


class _ClipRoute(RouteReader):
    """One phase of a clip of Bench2Drive, which the last character of the town index names."""

    def __init__(self, storage: DatasetStorage, folder: str, phase: int) -> None:
        self._storage, self._folder, self._phase = storage, folder, phase
        self._annotations: dict[int, dict[str, Any]] = {}

    def _relative(self, folder: str, clip_frame: int) -> str:
        name = {'measurements': 'anno', 'supervision': 'expert_assessment', 'lidar': 'lidar'}.get(
            folder, f'camera/{folder}'
        )
        suffix = {'anno': 'json.gz', 'expert_assessment': 'npz', 'lidar': 'laz'}.get(
            name, 'jpg' if folder.startswith('rgb') else 'png'
        )
        return f'{self._folder}/{name}/{clip_frame:05d}.{suffix}'

    def _clip_frame(self, frame: int) -> int:
        return FRAMES_PER_STEP * int(frame) + self._phase

    def _read(self, folder: str, frame: int) -> tuple[bytes, str]:
        relative = self._relative(folder, self._clip_frame(frame))
        return self._storage.read_bytes(relative), self._storage.location(relative)

    def _annotation(self, clip_frame: int) -> tuple[dict[str, Any], str]:
        """Annotation of a frame of the clip, without the other boxes, and its path; the last few are kept."""
        relative = self._relative('measurements', clip_frame)
        path = self._storage.location(relative)
        if clip_frame not in self._annotations:
            values = parse_annotation(self._storage.read_bytes(relative), path)
            while len(self._annotations) > 2 * FRAMES_PER_STEP:
                self._annotations.pop(next(iter(self._annotations)))
            boxes = values['bounding_boxes'][:1]
            self._annotations[clip_frame] = {**values, 'bounding_boxes': boxes, 'sensors': None}
        return self._annotations[clip_frame], path

    def path(self, folder: str, frame: int) -> str:
        return self._storage.location(self._relative(folder, self._clip_frame(frame)))

    def measurements(self, frame: int) -> dict[str, Any]:
        return measurements_of(*self._annotation(self._clip_frame(frame)))

    def supervision(self, frame: int) -> dict[str, Any]:
        clip_frame = self._clip_frame(frame)
        annotation, path = self._annotation(clip_frame)
        # the control in a file is the one that led to its frame
        alpha, beta = action_of(*self._annotation(clip_frame + 1))
        return {
            'action_mu': alpha,
            'action_sigma': beta,
            'only_ap_brake': flag_of(annotation, 'only_ap_brake', path),
            'cnn_features': [None] * len(TEACHER_MAP_SHAPES),
            **parse_expert(*self._read('supervision', frame)),
        }

    def points(self, frame: int) -> np.ndarray:
        return parse_laz(*self._read('lidar', frame))

    def rgb(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return decode_jpeg(*self._read(folder, frame), size)

    def depth_code(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return parse_depth(*self._read(folder, frame), size)

    def class_ids(self, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
        return cv2.LUT(decode_png(*self._read(folder, frame), size, channels=1), CLASS_TABLE)
