"""One file for one packed route: records by (frame, folder), each with a checksum.

Why not an LMDB: a memory map of a truncated or damaged database ends the
process with a signal instead of an error, LMDB's own page structure is trusted
blindly, maps are unsafe on network file systems, one process can't open the
same database twice, and its handle must not cross a fork. Positioned reads
have none of this, cost one system call a record, and let workers share a file.

Layout, little-endian::

    magic, header length u32, checksum u32, header (JSON: format version, folders, ...)
    records: mark, frame u32, folder u32, length u32, checksum u32, payload
    table: frames x folders of (offset u64, length u32, checksum u32)
    footer: table offset u64, frames u32, folders u32, checksum u32, magic

A frame ends with a record of folder ``END_OF_FRAME``. A file is written under
another name, without table and footer; what a kill or a full disk leaves is
scanned, cut after its last whole frame, and continued.
"""

import json
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .errors import SampleReadError

FORMAT_VERSION = 1
SUFFIX = '.ttroute'
PARTIAL_SUFFIX = '.ttroute.partial'
MAGIC = b'TTROUTE1'
FOOTER_MAGIC = b'TTINDEX1'
MARK = b'TTRC'
END_OF_FRAME = 0xFFFFFFFF
MAX_HEADER_BYTES = 2**20
MAX_RECORD_BYTES = 256 * 2**20
_START = struct.Struct('<8sII')
_RECORD = struct.Struct('<4sIIII')
_FOOTER = struct.Struct('<QIII8s')
_TABLE = np.dtype([('offset', '<u8'), ('length', '<u4'), ('checksum', '<u4')])


class RouteFileWriter:
    """Writes one route, frame by frame, and goes on where an earlier run stopped.

    Args:
        path (Path): The finished file; until then a neighbour with
            ``PARTIAL_SUFFIX`` holds the frames.
        header (dict[str, Any]): JSON values that describe the route; must have
            ``folders``, the record names in order. A partial file with another
            header is started anew.

    Attributes:
        frames (int): Number of whole frames that it holds.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.partial = path.with_name(path.name.removesuffix(SUFFIX) + PARTIAL_SUFFIX)
        self._header = {'format_version': FORMAT_VERSION, **header}
        self._folders: list[str] = list(header['folders'])
        self._table: list[np.ndarray] = []
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, 'a+b')  # noqa: SIM115 (closed by close())
        self._position = self._resume()

    @property
    def frames(self) -> int:
        """Number of whole frames written so far.

        Returns:
            int: The next frame to write.
        """
        return len(self._table)

    def _resume(self) -> int:
        text = json.dumps(self._header, sort_keys=True).encode()
        start = _START.pack(MAGIC, len(text), zlib.crc32(text)) + text
        self._file.seek(0)
        if self._file.read(len(start)) != start:
            self._file.truncate(0)
            self._file.write(start)
            self._file.flush()
            return len(start)
        position = len(start)
        while (scanned := self._scan_frame(position)) is not None:
            position, row = scanned
            self._table.append(row)
        self._file.truncate(position)
        return position

    def _scan_frame(self, position: int) -> tuple[int, np.ndarray] | None:
        """Check one frame of a partial file; None where it is torn."""
        row = np.zeros(len(self._folders), _TABLE)
        self._file.seek(position)
        while True:
            head = self._file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                return None
            mark, frame, folder, length, checksum = _RECORD.unpack(head)
            if mark != MARK or frame != self.frames or length > MAX_RECORD_BYTES:
                return None
            position += _RECORD.size
            if folder == END_OF_FRAME:
                return position, row
            payload = self._file.read(length)
            if folder >= len(row) or len(payload) < length or zlib.crc32(payload) != checksum:
                return None
            row[folder] = position, length, checksum
            position += length

    def append(self, records: dict[str, bytes]) -> None:
        """Write the next frame.

        Args:
            records (dict[str, bytes]): Payload by folder; an absent one means
                that the source has none.

        Raises:
            OSError: If the disk is full; the frames before stay.
        """
        row = np.zeros(len(self._folders), _TABLE)
        parts: list[bytes] = []
        position = self._position
        for name, payload in records.items():
            folder = self._folders.index(name)
            checksum = zlib.crc32(payload)
            parts += [_RECORD.pack(MARK, self.frames, folder, len(payload), checksum), payload]
            row[folder] = position + _RECORD.size, len(payload), checksum
            position += _RECORD.size + len(payload)
        parts.append(_RECORD.pack(MARK, self.frames, END_OF_FRAME, 0, 0))
        self._write(b''.join(parts))
        self._position = position + _RECORD.size
        self._table.append(row)

    def _write(self, data: bytes) -> None:
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._file.truncate(self._position)  # gives the space of the torn frame back
            raise

    def finish(self) -> None:
        """Write table and footer, force everything to disk, and give the file its name.

        Raises:
            OSError: If the disk is full; the frames stay.
        """
        table = np.stack(self._table).tobytes() if self._table else b''
        footer = _FOOTER.pack(
            self._position, self.frames, len(self._folders), zlib.crc32(table), FOOTER_MAGIC
        )
        self._write(table + footer)
        os.fsync(self._file.fileno())
        self.close()
        os.replace(self.partial, self.path)

    def close(self) -> None:
        """Close the file; it can be continued later."""
        self._file.close()

    def __enter__(self) -> 'RouteFileWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RouteFileReader:
    """Reads the records of one packed route; nothing in the file is trusted.

    Args:
        path (str): The file.

    Attributes:
        path (str): See above.
        header (dict[str, Any]): What the writer was given.
        num_frames (int): Number of frames.

    Raises:
        SampleReadError: If the file is missing, damaged or of another version.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
        except FileNotFoundError as error:
            raise SampleReadError(path, 'the file does not exist', missing=True) from error
        except OSError as error:
            raise SampleReadError(path, f'can not be read ({error})') from error
        try:
            self._size = os.fstat(self._descriptor).st_size
            self.header = self._read_header()
            self._folders = {str(name): index for index, name in enumerate(self.header['folders'])}
            self._table = self._read_table()
        except BaseException:
            self.close()
            raise
        self.num_frames = len(self._table)

    def _pread(self, length: int, offset: int) -> bytes:
        if offset < 0 or offset + length > self._size:
            raise SampleReadError(self.path, f'truncated or damaged ({self._size} bytes)')
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise SampleReadError(self.path, f'can not be read ({error})') from error
        if len(data) != length:
            raise SampleReadError(self.path, f'truncated while it was read ({self._size} bytes before)')
        return data

    def _read_header(self) -> dict[str, Any]:
        magic, length, checksum = _START.unpack(self._pread(_START.size, 0))
        if magic != MAGIC or length > MAX_HEADER_BYTES:
            raise SampleReadError(self.path, 'not a packed route')
        text = self._pread(length, _START.size)
        if zlib.crc32(text) != checksum:
            raise SampleReadError(self.path, 'damaged header')
        try:
            header = json.loads(text)
            folders = header['folders']
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise SampleReadError(self.path, f'damaged header ({error!r})') from error
        if not isinstance(header, dict) or not isinstance(folders, list):
            raise SampleReadError(self.path, 'damaged header')
        if header.get('format_version') != FORMAT_VERSION:
            version = header.get('format_version')
            raise SampleReadError(self.path, f'format version {version}, this version reads {FORMAT_VERSION}')
        return header

    def _read_table(self) -> np.ndarray:
        footer = self._pread(_FOOTER.size, self._size - _FOOTER.size)
        offset, frames, folders, checksum, magic = _FOOTER.unpack(footer)
        length = frames * folders * _TABLE.itemsize
        if magic != FOOTER_MAGIC or folders != len(self._folders):
            raise SampleReadError(self.path, 'truncated or unfinished (no table at its end)')
        table = self._pread(length, offset)
        if zlib.crc32(table) != checksum:
            raise SampleReadError(self.path, 'damaged table')
        return np.frombuffer(table, _TABLE).reshape(frames, folders)

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the records of a frame.

        Returns:
            tuple[str, ...]: In the order of the file.
        """
        return tuple(self._folders)

    def has(self, folder: str, frame: int) -> bool:
        """Say whether there is a record.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.

        Returns:
            bool: Whether :meth:`read` finds it.
        """
        if folder not in self._folders or not 0 <= frame < self.num_frames:
            return False
        return bool(self._table[frame, self._folders[folder]]['offset'])

    def read(self, folder: str, frame: int) -> bytes:
        """Read a record and check it.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.

        Returns:
            bytes: The payload.

        Raises:
            SampleReadError: If there is none or its checksum differs.
        """
        name = self.name(folder, frame)
        if not self.has(folder, frame):
            raise SampleReadError(name, 'the packed route does not hold it', missing=True)
        offset, length, checksum = (int(number) for number in self._table[frame, self._folders[folder]])
        data = self._pread(length, offset)
        if zlib.crc32(data) != checksum:
            raise SampleReadError(name, 'damaged (its checksum differs)')
        return data

    def name(self, folder: str, frame: int) -> str:
        """Name a record, for messages.

        Args:
            folder (str): Such as ``rgb_front``.
            frame (int): Frame number.

        Returns:
            str: File, folder and frame.
        """
        return f'{self.path}:{folder}/{frame:04d}'

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
