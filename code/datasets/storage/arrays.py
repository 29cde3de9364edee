"""Reading ``.npy`` and ``.npz`` files from untrusted sources.

``path`` says where the bytes came from, for messages; whatever is wrong with them is raised as
:class:`SampleReadError`.
"""

import io
import math
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import SampleReadError
from .unpickle import MAX_DIMENSIONS, restricted_loads

#: Bytes of an ``.npz`` file: a frame's arrays take a tenth of a megabyte.
MAX_NPZ_BYTES = 8 * 2**20
#: Bytes of all arrays of an ``.npz`` file.
MAX_UNPACKED_BYTES = 64 * 2**20


@lru_cache(maxsize=256)  # arrays of the same name have the same header in nearly every frame
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _read_header(data: bytes, path: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether the order is Fortran's, data type, and length of the header."""
    try:
        # magic number, version, length of the dictionary in 2 or 4 bytes, dictionary
        start = {(1, 0): 10, (2, 0): 12}[np.lib.format.read_magic(io.BytesIO(data))]
        length = start + int.from_bytes(data[8:start], 'little')
        shape, is_fortran, dtype = _parse_header(data[:length])
    except KeyError as error:
        raise SampleReadError(path, f'npy format version {error} is not supported') from None
    # a damaged header makes the parser of literals raise almost any error
    except Exception as error:
        raise SampleReadError(path, f'not a numpy file or a damaged one ({error})') from error
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise SampleReadError(path, f'malformed shape {shape}')
    return shape, is_fortran, dtype, length


def parse_array(data: bytes, path: str) -> np.ndarray:
    """Read an ``.npy`` file of plain numbers; a pickled one is refused.

    Returns:
        A writable array in native byte order.
    """
    shape, is_fortran, dtype, length = _read_header(data, path)
    if dtype.kind not in 'biuf':
        raise SampleReadError(path, f'refused: holds {dtype} instead of plain numbers')
    # compared before anything is allocated: the header may announce petabytes
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - length
    if expected != found:
        raise SampleReadError(path, f'truncated or damaged: {found} bytes instead of {expected}')
    array = np.frombuffer(data, dtype, offset=length).astype(dtype.newbyteorder('='))
    return array.reshape(shape, order='F' if is_fortran else 'C')


def parse_npz(data: bytes, path: str) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file by name, each as :func:`parse_array` does.

    Files above ``MAX_NPZ_BYTES``, or with more than ``MAX_UNPACKED_BYTES`` of arrays, are refused.
    """
    if len(data) > MAX_NPZ_BYTES:
        raise SampleReadError(path, f'an npz file of {len(data)} bytes, more than {MAX_NPZ_BYTES}')
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {member.filename: _read(archive, member) for member in _checked_members(archive)}
    except MemoryError:
        raise
    # a damaged archive makes zipfile raise whatever its parts do
    except Exception as error:
        raise SampleReadError(path, f'damaged npz file ({error})') from error
    return {
        name.removesuffix('.npy'): parse_array(content, f'{path}:{name}')
        for name, content in contents.items()
    }


def _checked_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise ValueError(f'more than {MAX_UNPACKED_BYTES} bytes of arrays')
    if len(set(archive.namelist())) < len(members):
        raise ValueError('two arrays of one name')
    # the other methods of compression decompress without a limit
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError('an unexpected method of compression')
    return members


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        # never read(): it decompresses all there is, whatever size the archive announces
        return file.read(member.file_size)


def parse_pickled_object(data: bytes, path: str) -> Any:
    """Read the only object of a 0-d object array (the form of ``supervision/*.npy``).

    Returns:
        What :func:`~thinktwice.datasets.storage.unpickle.restricted_loads` allows.
    """
    shape, _, dtype, length = _read_header(data, path)
    if dtype != np.dtype(object) or shape != ():
        raise SampleReadError(path, f'expected one pickled dictionary, found {dtype} of shape {shape}')
    loaded = restricted_loads(data[length:], path)
    if not isinstance(loaded, np.ndarray) or loaded.shape != () or loaded.dtype != object:
        raise SampleReadError(path, 'its pickle does not hold the array that its header announces')
    return loaded.item()
