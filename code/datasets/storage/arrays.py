"""Reading ``.npy`` files of strangers: plain arrays, and pickled dictionaries of them."""

import io
import math
from typing import Any

import numpy as np

from .errors import SampleReadError
from .unpickle import MAX_DIMENSIONS, restricted_loads


def _read_header(stream: io.BytesIO, path: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read(stream)
    except KeyError as error:
        raise SampleReadError(path, f'npy format version {error} is not supported') from None
    # A hostile header fails in the literal parser with almost any error.
    except Exception as error:
        raise SampleReadError(path, f'not a numpy file or a damaged one ({error})') from error
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise SampleReadError(path, f'malformed shape {shape}')
    return shape, is_fortran, dtype


def parse_array(data: bytes, path: str) -> np.ndarray:
    """Read an array of plain numbers; a pickled one is refused.

    Args:
        data (bytes): Contents of an ``.npy`` file.
        path (str): Where they came from, for the message.

    Returns:
        np.ndarray: A writable array in native byte order.

    Raises:
        SampleReadError: If the file is damaged, holds objects, or has another
            number of bytes than its header announces.
    """
    stream = io.BytesIO(data)
    shape, is_fortran, dtype = _read_header(stream, path)
    if dtype.kind not in 'biuf':
        raise SampleReadError(path, f'refused: holds {dtype} instead of plain numbers')
    # Counted before anything is allocated: the header may announce petabytes.
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != found:
        raise SampleReadError(path, f'truncated or damaged: {found} bytes instead of {expected}')
    array = np.frombuffer(data, dtype, offset=stream.tell()).astype(dtype.newbyteorder('='))
    return array.reshape(shape, order='F' if is_fortran else 'C')


def parse_pickled_object(data: bytes, path: str) -> Any:
    """Read the one object of a 0-d object array (the form of ``supervision/*.npy``).

    Args:
        data (bytes): Contents of an ``.npy`` file.
        path (str): Where they came from, for the message.

    Returns:
        Any: Plain containers, numbers and numeric arrays, see
        :func:`~thinktwice.datasets.storage.unpickle.restricted_loads`.

    Raises:
        SampleReadError: If the file is damaged, is not such an array, or its
            pickle asks for anything else.
    """
    stream = io.BytesIO(data)
    shape, _, dtype = _read_header(stream, path)
    if dtype != np.dtype(object) or shape != ():
        raise SampleReadError(path, f'expected one pickled dictionary, found {dtype} of shape {shape}')
    loaded = restricted_loads(stream.read(), path)
    if not isinstance(loaded, np.ndarray) or loaded.shape != () or loaded.dtype != object:
        raise SampleReadError(path, 'its pickle does not hold the array that its header announces')
    return loaded.item()
