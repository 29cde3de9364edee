"""Reading pickles from untrusted sources: numbers, text, containers and numpy arrays, nothing else.

``find_class`` answers with functions of this module, never with those that the pickle names: numpy's
own reconstruction functions would allocate what a pickle asks for. They only collect data type, shape
and bytes, which are checked against each other before an array is made of them.

Files written by numpy 1.x (``numpy.core``) and 2.x (``numpy._core``) both read.
"""

import io
import math
import pickle
import pickletools
from functools import partial
from typing import Any

import numpy as np

from thinktwice.errors import describe

from .errors import SampleReadError

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DEPTH = 16
MAX_DIMENSIONS = 8
MAX_MEMO_INDEX = 10**7
_PLAIN_TYPES = (bool, int, float, str, bytes, bytearray, np.generic, type(None))
_ORDERS = ('C', 'F')


class _RefusedError(Exception):
    """A pickle asks for something that is not allowed."""


class _Dtype:
    """A numeric data type as a pickle describes it."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or len(code) > 3 or np.dtype(code).kind not in 'biufO':
            raise _RefusedError(f'data type {code!r}, only plain numbers are allowed')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # numpy's state: (version, byte order, sub-array, names, fields, ...)
        if any(part is not None for part in state[2:5]) or state[1] not in ('<', '>', '=', '|'):
            raise _RefusedError('a structured data type')
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array as a pickle describes it: a view of its bytes, or a list with its only object."""

    value: np.ndarray | list | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if isinstance(data, list):
            if dtype.dtype.kind != 'O' or shape != () or len(data) != 1:
                raise _RefusedError(f'an object array of shape {shape} with {len(data)} objects')
            self.value = data
        else:
            self.value = _read_array(data, dtype, shape, 'F' if is_fortran else 'C')


def _read_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, str):  # bytes as Python 2 wrote them
        data = data.encode('latin1')
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in _ORDERS:
        raise _RefusedError('an array with a malformed state')
    if dtype.dtype.kind == 'O':
        raise _RefusedError('an object array made from bytes')
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise _RefusedError('an array with a malformed shape')
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _RefusedError('an array with a malformed shape')
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _RefusedError(f'an array of shape {shape} and type {dtype.dtype} holds {len(data)} bytes')
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _not_callable(*_args: Any) -> Any:
    raise _RefusedError('a call of numpy.ndarray')


def _reconstruct(*_args: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _Array:
    if axis_order is not None:
        raise _RefusedError(f'array order {order!r}')
    array = _Array()
    array.value = _read_array(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    array = _read_array(data, dtype, (), 'C')
    return array.astype(array.dtype.newbyteorder('='))[()]


def _empty_bytes() -> bytes:
    # how Python 3 writes b'' under pickle protocols 0 to 2
    return b''


def _encode(text: Any, encoding: Any) -> bytes:
    # how Python 3 writes bytes under pickle protocols 0 to 2
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise _RefusedError(f'text encoded as {encoding!r}')
    return text.encode('latin1')


_GLOBALS: dict[tuple[str, str], Any] = {
    ('numpy', 'ndarray'): _not_callable,
    ('numpy', 'dtype'): _Dtype,
    ('_codecs', 'encode'): _encode,
    ('__builtin__', 'bytes'): _empty_bytes,
}
for _core in ('numpy.core', 'numpy._core'):
    _GLOBALS[f'{_core}.multiarray', '_reconstruct'] = _reconstruct
    _GLOBALS[f'{_core}.multiarray', 'scalar'] = _scalar
    _GLOBALS[f'{_core}.numeric', '_frombuffer'] = _from_buffer


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _RefusedError(
                f'the pickle asks for {module}.{name}; only arrays, numbers, text and containers are allowed'
            )
        # a copy for this pickle alone, whose attributes it may set without consequences
        return partial(_GLOBALS[module, name])


def _check_sizes(data: bytes) -> None:
    """Refuse lengths beyond the end of the data, which ``genops`` checks, and a memo of absurd size.

    The unpickler allocates both before it reads.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if 'PUT' in opcode.name and int(argument or 0) > MAX_MEMO_INDEX:
            raise _RefusedError('the pickle asks for an absurd amount of memory')


class _Copy:
    """Copies a tree of containers with real arrays; what has several parents is copied once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        # many arrays may view the same bytes of the pickle
        self._array_bytes_left = MAX_PICKLE_BYTES

    def __call__(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        if isinstance(value, _PLAIN_TYPES):
            return value
        if id(value) not in self._done:
            if depth == 0:
                raise _RefusedError(f'containers nested deeper than {MAX_DEPTH}, or inside themselves')
            self._done[id(value)] = self._copy(value, depth - 1)
        return self._done[id(value)]

    def _copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Array) and isinstance(value.value, np.ndarray):
            self._array_bytes_left -= value.value.nbytes
            if self._array_bytes_left < 0:
                raise _RefusedError(f'arrays of more than {MAX_PICKLE_BYTES} bytes')
            return value.value.astype(value.value.dtype.newbyteorder('='))
        if isinstance(value, _Array) and value.value is not None:
            array = np.empty((), object)
            array[()] = self(value.value[0], depth)
            return array
        if type(value) is dict:
            if not all(isinstance(key, (str, int, float, bytes)) for key in value):
                raise _RefusedError('a dictionary whose keys are not text or numbers')
            return {key: self(item, depth) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self(item, depth) for item in value)
        raise _RefusedError(f'a {type(value).__name__.lstrip("_")} in place of data')


def restricted_loads(data: bytes, path: str) -> Any:
    """Read a pickle of numbers, text, dict, list, tuple and numeric arrays; none of its calls is made.

    Args:
        data: The pickle.
        path: Where it came from, for messages.

    Returns:
        The object; arrays are writable, in native byte order.

    Raises:
        SampleReadError: The pickle is damaged, larger than ``MAX_PICKLE_BYTES``, nested deeper than
            ``MAX_DEPTH``, or asks for anything else (the message names it).
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise SampleReadError(path, f'a pickle of {len(data)} bytes, more than {MAX_PICKLE_BYTES}')
    try:
        _check_sizes(data)
        return _Copy()(_ArrayUnpickler(io.BytesIO(data), encoding='latin1').load())
    except _RefusedError as refusal:
        raise SampleReadError(path, f'refused: {refusal}') from None
    except MemoryError:
        raise
    # the unpickler raises nearly every type of error on damaged input
    except Exception as error:
        raise SampleReadError(path, f'damaged pickle ({describe(error)})') from error
