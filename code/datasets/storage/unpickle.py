"""Reading pickles without running anything: numbers, text, containers, numpy arrays.

A pickle is a program. Three fences keep a stranger's from doing harm:

1. the opcodes are listed first (``pickletools``) and any that could build a
   foreign object, or could ask for absurd memory, is refused;
2. a global is answered by an inert stand-in of this module or refused by name;
   numpy's own reconstruction functions are never called with foreign state;
3. the stand-ins are turned into arrays by :func:`numpy.frombuffer` after their
   data type, shape and byte count have been checked against each other.

Files written by numpy 1.x (``numpy.core``) and 2.x (``numpy._core``) both read.
"""

import io
import math
import pickle
import pickletools
from typing import Any, NoReturn

import numpy as np

from .errors import SampleReadError

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DEPTH = 16
MAX_DIMENSIONS = 8

_ALLOWED_OPCODES = frozenset(
    {
        *('PROTO', 'STOP', 'FRAME', 'MARK', 'POP', 'POP_MARK', 'DUP', 'NONE', 'NEWTRUE', 'NEWFALSE'),
        *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'),
        *('STRING', 'BINSTRING', 'SHORT_BINSTRING'),
        *('UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'),
        *('SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
        *('EMPTY_LIST', 'LIST', 'APPEND', 'APPENDS', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'),
        *('EMPTY_DICT', 'DICT', 'SETITEM', 'SETITEMS'),
        *('GET', 'BINGET', 'LONG_BINGET', 'PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'),
        *('GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD'),
    }
)
_PUT_OPCODES = frozenset({'PUT', 'BINPUT', 'LONG_BINPUT'})
_MAX_MEMO_INDEX = 10**7
_ALLOWED_KINDS = 'biufO'


class _RefusedError(Exception):
    """A pickle asked for something that is not admitted."""


class _Factory:
    """An immutable stand-in for one global: a pickle can call it, not change it."""

    __slots__ = ('function',)
    function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, 'function', function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _RefusedError('a pickle may not set attributes of a function')


class _DtypeRecord:
    """A numeric data type as written in a pickle."""

    __slots__ = ('dtype',)

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or len(code) > 3:
            raise _RefusedError(f'data type {code!r} is not a plain number')
        try:
            dtype = np.dtype(code)
        except TypeError as error:
            raise _RefusedError(f'data type {code!r} is unknown') from error
        if dtype.kind not in _ALLOWED_KINDS:
            raise _RefusedError(f'data type {code!r} is not admitted, only plain numbers and object are')
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        # numpy's state: (version, byte order, sub-array, names, fields, ...).
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _RefusedError('structured data types are not admitted')
        if state[1] not in ('<', '>', '=', '|'):
            raise _RefusedError(f'byte order {state[1]!r} is unknown')
        self.dtype = self.dtype.newbyteorder(state[1])


class _ArrayRecord:
    """An array whose contents arrive in a second step, as numpy writes them."""

    __slots__ = ('array', 'objects')

    def __init__(self) -> None:
        self.array: np.ndarray | None = None
        self.objects: list | None = None  # contents of an object array, not yet materialised

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError('an array has a malformed state')
        _, shape, dtype, is_fortran, data = state
        if isinstance(data, list):
            self.array, self.objects = _empty_object_array(shape, dtype, data), data
            return
        if isinstance(data, str):  # bytes written by Python 2
            data = data.encode('latin1')
        self.array = _build_array(shape, dtype, data, 'F' if is_fortran else 'C')


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise _RefusedError('an array has a malformed shape')
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _RefusedError('an array has a malformed shape')


def _empty_object_array(shape: Any, dtype: Any, data: list) -> np.ndarray:
    _check_shape(shape)
    if not isinstance(dtype, _DtypeRecord) or dtype.dtype.kind != 'O' or math.prod(shape) != len(data):
        raise _RefusedError('an object array has a malformed state')
    return np.empty(shape, object)


def _build_array(shape: Any, dtype: Any, data: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DtypeRecord) or not isinstance(data, (bytes, bytearray)):
        raise _RefusedError('an array has a malformed state')
    if dtype.dtype.kind == 'O':
        raise _RefusedError('an object array made from bytes')
    _check_shape(shape)
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _RefusedError(f'an array of shape {shape} holds {len(data)} bytes')
    flat = np.frombuffer(data, dtype.dtype).astype(dtype.dtype.newbyteorder('='))
    return flat.reshape(shape, order='F' if order == 'F' else 'C')


def _reconstruct(subtype: Any, *_args: Any) -> _ArrayRecord:
    if subtype is not _NDARRAY:
        raise _RefusedError('an array subclass is not admitted')
    return _ArrayRecord()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _ArrayRecord:
    if order not in ('C', 'F') or axis_order is not None:
        raise _RefusedError(f'array order {order!r} is not admitted')
    record = _ArrayRecord()
    record.array = _build_array(shape, dtype, data, order)
    return record


def _scalar(dtype: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode('latin1')
    return _build_array((), dtype, data, 'C')[()]


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    # How Python 3 writes bytes under pickle protocols 0 to 2.
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise _RefusedError('only latin1 text may be turned into bytes')
    return text.encode('latin1')


def _empty_bytes(*args: Any) -> bytes:
    # How Python 3 writes b'' under pickle protocols 0 to 2.
    if args:
        raise _RefusedError('bytes may only be made the way Python writes them')
    return b''


_NDARRAY = _Factory(lambda *args: _refuse_call())


def _refuse_call() -> NoReturn:
    raise _RefusedError('arrays may only be made the way numpy writes them')


_GLOBALS: dict[tuple[str, str], Any] = {
    ('numpy', 'ndarray'): _NDARRAY,
    ('numpy', 'dtype'): _Factory(_DtypeRecord),
    ('_codecs', 'encode'): _Factory(_encode),
    ('__builtin__', 'bytes'): _Factory(_empty_bytes),
}
for _core in ('numpy.core', 'numpy._core'):
    _GLOBALS[f'{_core}.multiarray', '_reconstruct'] = _Factory(_reconstruct)
    _GLOBALS[f'{_core}.multiarray', 'scalar'] = _Factory(_scalar)
    _GLOBALS[f'{_core}.numeric', '_frombuffer'] = _Factory(_from_buffer)


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise _RefusedError(
                f'the pickle asks for the global {module}.{name}, which is not admitted '
                '(only numpy arrays, numbers, text and plain containers are)'
            ) from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _RefusedError('the pickle asks for a persistent object')


def _check_opcodes(data: bytes) -> None:
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name not in _ALLOWED_OPCODES:
            # INST names its global in the opcode; the others have it on the stack.
            detail = f' ({argument})' if argument is not None else ''
            raise _RefusedError(
                f'the pickle uses the instruction {opcode.name}{detail}, which is not admitted'
            )
        if opcode.name in _PUT_OPCODES and int(argument or 0) > _MAX_MEMO_INDEX:
            raise _RefusedError('the pickle asks for an absurd amount of memory')


def _materialise(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """Replace the stand-ins in a tree of containers, each container once."""
    if isinstance(value, _ArrayRecord):
        return _materialise_array(value, depth, done)
    if isinstance(value, (_DtypeRecord, _Factory)):
        raise _RefusedError('a data type or function stands where data should')
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth == 0:
        raise _RefusedError(f'containers nested deeper than {MAX_DEPTH} (or a container inside itself)')
    result: Any
    if isinstance(value, dict):
        result = {_plain_key(key): _materialise(item, depth - 1, done) for key, item in value.items()}
    else:
        result = type(value)(_materialise(item, depth - 1, done) for item in value)
    done[id(value)] = result
    return result


def _materialise_array(record: _ArrayRecord, depth: int, done: dict[int, Any]) -> np.ndarray:
    if record.array is None:
        raise _RefusedError('an array without contents')
    if record.objects is None or id(record) in done:
        return record.array
    if depth == 0:
        raise _RefusedError(f'containers nested deeper than {MAX_DEPTH} (or a container inside itself)')
    flat = record.array.reshape(-1)
    for index, item in enumerate(record.objects):
        flat[index] = _materialise(item, depth - 1, done)
    done[id(record)] = record.array
    return record.array


def _plain_key(key: Any) -> Any:
    if isinstance(key, (str, int, float, bytes)):
        return key
    raise _RefusedError(f'a dictionary key of type {type(key).__name__}')


def restricted_loads(data: bytes, path: str) -> Any:
    """Read a pickle that may hold numbers, text, dict, list, tuple and arrays of these.

    Args:
        data (bytes): The pickle.
        path (str): Where it came from, for the message.

    Returns:
        Any: The object; arrays are writable, in native byte order.

    Raises:
        SampleReadError: If the pickle is damaged, larger than
            ``MAX_PICKLE_BYTES``, or asks for anything else (the message names
            the global). Nothing of it has been run then.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise SampleReadError(path, f'a pickle of {len(data)} bytes, more than {MAX_PICKLE_BYTES}')
    try:
        _check_opcodes(data)
        loaded = _RestrictedUnpickler(io.BytesIO(data), encoding='latin1').load()
        return _materialise(loaded, MAX_DEPTH, {})
    except _RefusedError as refusal:
        raise SampleReadError(path, f'refused: {refusal}') from None
    except (MemoryError, KeyboardInterrupt):
        raise
    # The unpickler raises nearly every type of error on damaged input.
    except Exception as error:
        raise SampleReadError(path, f'damaged pickle ({type(error).__name__}: {error})') from error
