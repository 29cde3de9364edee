"""One packed route: an uncompressed ZIP file with one member for each modality, camera and frame.

Members are named as the recorded files (``rgb_front/0003.jpg``, ``lidar/0003.npz``, ...). ``route.json``
says how many frames and which folders there are, and which members are absent because the recorded file
was unusable.

The directory of a ZIP file takes a few microseconds a member to read, so it is read once in each process,
into 16 bytes a member. Members are then read by position: nothing is memory-mapped (a truncated map ends
a process with a signal), and processes may share an open file.
"""

import io
import json
import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from thinktwice.files import write_atomically

from .errors import SampleReadError
from .frame_files import parse_json

FORMAT_VERSION = 2
SUFFIX = '.zip'
DESCRIPTION = 'route.json'
MAX_MEMBER_BYTES = 256 * 2**20
#: Bytes of a ZIP directory: about 30,000 frames.
MAX_DIRECTORY_BYTES = 32 * 2**20
MAX_OPEN_FILES = 64
# Header before each member's bytes; its last two fields are the lengths of name and extra field that follow.
_LOCAL_HEADER = struct.Struct('<4s22xHH')
_READABLE_BY_ALL = 0o644 << 16
_INDEX = np.dtype([('offset', '<u8'), ('length', '<u4'), ('checksum', '<u4')])


def member_path(path: str, folder: str, frame: int) -> str:
    """What messages call a member: its file, folder and frame."""
    return f'{path}:{folder}/{frame:04d}'


def write_route(
    path: Path,
    description: dict[str, Any],
    suffixes: dict[str, str],
    frames: Iterable[tuple[dict[str, bytes], dict[str, str]]],
) -> None:
    """Write a packed route; the file appears when it is complete.

    Args:
        path: The file.
        description: JSON values to be stored in ``route.json``.
        suffixes: File suffix by folder.
        frames: For each frame, contents by folder, and for folders without contents the reason.

    Raises:
        WriteError: The file cannot be written.
    """

    def write(file: Any) -> None:
        damaged: dict[str, str] = {}
        count = 0
        with zipfile.ZipFile(file, 'w') as archive:
            for count, (contents, reasons) in enumerate(frames, start=1):
                for folder, content in contents.items():
                    _add(archive, f'{folder}/{count - 1:04d}.{suffixes[folder]}', content)
                for folder, reason in reasons.items():
                    damaged[f'{folder}/{count - 1:04d}'] = reason
            text = json.dumps(
                {**description, 'frames': count, 'suffixes': suffixes, 'damaged': damaged}, indent=1
            )
            _add(archive, DESCRIPTION, text.encode())

    write_atomically(path, write)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name)  # of a fixed date: equal routes are equal files
    member.external_attr = _READABLE_BY_ALL
    archive.writestr(member, content)


class _BoundedFile(io.FileIO):
    """A file that refuses to be read in larger pieces than the directory of a route may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f'a directory of {size} bytes')
        return super().read(size)


class RouteZip:
    """Reads a packed route; whatever is wrong with the file is raised as ``SampleReadError``.

    Attributes:
        description: Contents of ``route.json``.
        num_frames: Number of frames.
        suffixes: File suffix by folder.
        damaged: Why a member is absent, by ``folder/frame``.
    """

    description: dict[str, Any]
    num_frames: int
    suffixes: dict[str, str]
    damaged: dict[str, str]

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: _BoundedFile | None = None
        self._state = self._open()
        try:
            self._read_directory()
        except BaseException:
            self.close()
            raise

    def _open(self) -> tuple[int, int]:
        """Open the file; returns what tells whether it has been replaced."""
        try:
            self._file = _BoundedFile(self.path)
            status = os.fstat(self._file.fileno())
        except FileNotFoundError as error:
            raise SampleReadError(self.path, 'the file does not exist', missing=True) from error
        except OSError as error:
            raise SampleReadError(self.path, f'cannot be read ({error})') from error
        return status.st_size, status.st_mtime_ns

    def reopen(self) -> bool:
        """Open the file again after :meth:`close`; False if it has been replaced."""
        return self._open() == self._state

    def close(self) -> None:
        """Close the file; the directory is kept."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_directory(self) -> None:
        try:
            with zipfile.ZipFile(self._file) as archive:  # type: ignore[arg-type]
                members = {member.filename: member for member in archive.infolist()}
                count = len(archive.infolist())
        except MemoryError:
            raise
        # a damaged archive makes zipfile raise whatever its parts do
        except Exception as error:
            raise SampleReadError(self.path, f'truncated, damaged or not a ZIP file ({error})') from error
        if len(members) < count:
            raise SampleReadError(self.path, 'two members of one name')
        if DESCRIPTION not in members:
            raise SampleReadError(self.path, f'not a packed route (no {DESCRIPTION})')
        name = f'{self.path}:{DESCRIPTION}'
        self.description = parse_json(self._read(*self._position(members.pop(DESCRIPTION)), name), name)
        self._check_description(len(members), name)
        self._folders = {folder: number for number, folder in enumerate(self.suffixes)}
        self._index = np.zeros((self.num_frames, len(self._folders)), _INDEX)
        for folder, number in self._folders.items():
            for frame in range(self.num_frames):
                member = members.get(f'{folder}/{frame:04d}.{self.suffixes[folder]}')
                if (member is None) != (f'{folder}/{frame:04d}' in self.damaged):
                    name = member_path(self.path, folder, frame)
                    raise SampleReadError(name, f'missing from the file, or wrongly listed in {DESCRIPTION}')
                if member is not None:
                    self._index[frame, number] = self._position(member)

    def _check_description(self, members: int, name: str) -> None:
        description: Any = self.description if isinstance(self.description, dict) else {}
        frames, damaged, suffixes = (description.get(key) for key in ('frames', 'damaged', 'suffixes'))
        if type(frames) is not int or not isinstance(damaged, dict):
            raise SampleReadError(name, 'damaged (no number of frames, or no list of damaged files)')
        if not isinstance(suffixes, dict) or not suffixes or {*map(type, suffixes.values())} != {str}:
            raise SampleReadError(name, 'damaged (no folders)')
        self.num_frames, self.damaged, self.suffixes = frames, damaged, suffixes
        # compared before the index is allocated: any number may stand there
        expected = self.num_frames * len(self.suffixes) - len(self.damaged)
        if self.num_frames < 0 or expected != members:
            raise SampleReadError(self.path, f'has {members} members, {expected} are listed in {DESCRIPTION}')

    def _position(self, member: zipfile.ZipInfo) -> tuple[int, int, int]:
        name = f'{self.path}:{member.filename}'
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise SampleReadError(name, 'compressed')
        if not 0 <= member.header_offset <= self._state[0]:
            raise SampleReadError(name, 'damaged (lies outside the file)')
        if member.file_size > MAX_MEMBER_BYTES:
            raise SampleReadError(name, f'more than {MAX_MEMBER_BYTES} bytes')
        return member.header_offset, member.file_size, member.CRC

    def read(self, folder: str, frame: int) -> bytes:
        """Read a member, such as frame 3 of ``rgb_front``, and compare its checksum."""
        name = member_path(self.path, folder, frame)
        if folder not in self._folders or not 0 <= frame < self.num_frames:
            raise SampleReadError(name, 'not in the packed route', missing=True)
        if (key := f'{folder}/{frame:04d}') in self.damaged:
            raise SampleReadError(name, f'was unusable when packed: {self.damaged[key]}')
        offset, length, checksum = self._index[frame, self._folders[folder]].tolist()
        return self._read(offset, length, checksum, name)

    def _read(self, offset: int, length: int, checksum: int, name: str) -> bytes:
        signature, *lengths = _LOCAL_HEADER.unpack(self._pread(_LOCAL_HEADER.size, offset, name))
        if signature != b'PK\x03\x04':
            raise SampleReadError(name, 'damaged (no header)')
        content = self._pread(length, offset + _LOCAL_HEADER.size + sum(lengths), name)
        if zlib.crc32(content) != checksum:
            raise SampleReadError(name, 'damaged (its checksum differs)')
        return content

    def _pread(self, length: int, offset: int, name: str) -> bytes:
        assert self._file is not None
        size, _ = self._state
        if not 0 <= offset <= size - length:
            raise SampleReadError(name, f'damaged (lies beyond the {size} bytes of the file)')
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise SampleReadError(name, f'cannot be read ({error})') from error
        if len(data) < length:
            raise SampleReadError(name, 'truncated while it was open')
        return data


class OpenRoutes:
    """The packed routes of a dataset: the directories of all that were read, at most ``limit`` files open."""

    def __init__(self, limit: int = MAX_OPEN_FILES) -> None:
        self._limit = limit
        self._routes: dict[str, RouteZip] = {}
        self._open: OrderedDict[str, RouteZip] = OrderedDict()

    def __reduce__(self) -> tuple:  # each process opens its own
        return type(self), (self._limit,)

    def get(self, path: str) -> RouteZip:
        """Give an open route."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        route = self._routes.get(path)
        if route is not None and not route.reopen():
            route.close()
            route = None
        if route is None:
            route = self._routes[path] = RouteZip(path)
        self._open[path] = route
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return route
