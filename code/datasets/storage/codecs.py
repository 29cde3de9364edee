"""Compact forms of points and teacher outputs in packed datasets, within stated errors.

Points: coordinates as 16-bit steps of the sweep's largest coordinate (error at
most ``max|xyz| / 65534``: 1.3 mm for a reach of 85 m); intensity as 8-bit steps
of the sweep's own range (error at most 1/510 of it).

Teacher outputs: maps in half precision (relative error at most 2^-11, values
up to 65504), everything else as recorded.
"""

import json
import struct
import zlib
from typing import Any

import numpy as np

from .errors import SampleReadError
from .records import TEACHER_MAP_SHAPES, check_supervision

MAX_COORDINATE_STEP = 32767
MAX_INTENSITY_STEP = 255
MAX_UNPACKED_BYTES = 64 * 2**20
_LENGTH = struct.Struct('<I')
_KINDS = frozenset('biuf')
TEACHER_MAPS = 'cnn_features'


def encode_arrays(values: dict[str, Any]) -> bytes:
    """Pack named arrays and plain values, compressed.

    Args:
        values (dict[str, Any]): Numeric arrays, and anything that JSON holds.

    Returns:
        bytes: The packed form; :func:`decode_arrays` reads it.
    """
    header: dict[str, Any] = {'values': {}, 'arrays': []}
    parts: list[bytes] = []
    for name, value in values.items():
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            # The bytes of like significance side by side: a third smaller for sweeps.
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts.append(np.ascontiguousarray(flat.reshape(-1, array.itemsize).T).tobytes())
            header['arrays'].append([name, array.dtype.str, list(array.shape)])
        else:
            header['values'][name] = value
    text = json.dumps(header).encode()
    return zlib.compress(b''.join([_LENGTH.pack(len(text)), text, *parts]), 6)


def decode_arrays(data: bytes, path: str) -> dict[str, Any]:
    """Unpack what :func:`encode_arrays` packed.

    Args:
        data (bytes): The packed form.
        path (str): Where it came from, for the message.

    Returns:
        dict[str, Any]: Arrays (writable) and values by name.

    Raises:
        SampleReadError: If it is damaged.
    """
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(data, MAX_UNPACKED_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError(f'more than {MAX_UNPACKED_BYTES} bytes')
        if not unpacker.eof:
            raise ValueError('truncated')
        (length,) = _LENGTH.unpack_from(content)
        position = _LENGTH.size + length
        header = json.loads(content[_LENGTH.size : position])
        values = dict(header['values'])
        for name, code, shape in header['arrays']:
            values[name], position = _read_array(content, position, np.dtype(code), shape)
        if position != len(content):
            raise ValueError('bytes left over')
    except (zlib.error, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SampleReadError(path, f'damaged packed record ({error})') from error
    return values


def _read_array(content: bytes, position: int, dtype: np.dtype, shape: list[int]) -> tuple[np.ndarray, int]:
    if dtype.kind not in _KINDS:
        raise ValueError(f'data type {dtype}')
    count = int(np.prod(shape, dtype=np.int64))
    if count < 0 or any(size < 0 for size in shape):
        raise ValueError(f'shape {shape}')
    planes = np.frombuffer(content, np.uint8, count * dtype.itemsize, position)
    array = np.ascontiguousarray(planes.reshape(dtype.itemsize, count).T).view(dtype)
    return array.reshape(shape), position + planes.size


def encode_points(points: np.ndarray) -> bytes:
    """Pack a LiDAR sweep; order kept, errors as in the module's description.

    Args:
        points (np.ndarray): (P, 4) float32 x, y, z in metres, intensity; finite.

    Returns:
        bytes: The packed form.
    """
    reach = float(np.abs(points[:, :3]).max()) or 1.0
    low, high = float(points[:, 3].min()), float(points[:, 3].max())
    span = (high - low) or 1.0
    coordinates = points[:, :3].astype(np.float64) / (reach / MAX_COORDINATE_STEP)
    intensity = (points[:, 3].astype(np.float64) - low) / (span / MAX_INTENSITY_STEP)
    return encode_arrays(
        {
            'reach': reach,
            'intensity_low': low,
            'intensity_span': span,
            'coordinates': np.ascontiguousarray(np.rint(coordinates).astype('<i2').T),
            'intensity': np.rint(intensity).astype(np.uint8),
        }
    )


def decode_points(data: bytes, path: str) -> np.ndarray:
    """Unpack a LiDAR sweep.

    Args:
        data (bytes): The packed form.
        path (str): Where it came from, for the message.

    Returns:
        np.ndarray: (P, 4) float32 x, y, z in metres, intensity.

    Raises:
        SampleReadError: If it is damaged.
    """
    values = decode_arrays(data, path)
    try:
        points = np.empty((len(values['intensity']), 4), np.float32)
        points[:, :3] = values['coordinates'].T * np.float32(values['reach'] / MAX_COORDINATE_STEP)
        points[:, 3] = values['intensity'] * np.float32(values['intensity_span'] / MAX_INTENSITY_STEP)
        points[:, 3] += np.float32(values['intensity_low'])
    except (KeyError, ValueError, TypeError) as error:
        raise SampleReadError(path, f'damaged packed sweep ({error})') from error
    if not len(points) or not np.isfinite(points).all():
        raise SampleReadError(path, 'damaged packed sweep (no points, or not finite)')
    return points


def encode_supervision(values: dict[str, Any], levels: tuple[int, ...]) -> bytes:
    """Pack the teacher's outputs.

    Args:
        values (dict[str, Any]): As recorded, checked.
        levels (tuple[int, ...]): Levels of ``cnn_features`` to keep.

    Returns:
        bytes: The packed form.
    """
    kept = {key: value for key, value in values.items() if key != TEACHER_MAPS}
    for level in levels:
        teacher_map = values[TEACHER_MAPS][level]
        if teacher_map is not None:
            kept[f'{TEACHER_MAPS}/{level}'] = _half(np.asarray(teacher_map, np.float32))
    return encode_arrays(kept)


def _half(array: np.ndarray) -> np.ndarray:
    # What half precision can't hold stays as it is.
    return array.astype('<f2') if np.abs(array).max(initial=0) <= np.finfo(np.float16).max else array


def decode_supervision(data: bytes, path: str) -> dict[str, Any]:
    """Unpack the teacher's outputs.

    Args:
        data (bytes): The packed form.
        path (str): Where it came from, for the message.

    Returns:
        dict[str, Any]: As recorded; levels of ``cnn_features`` that were not
            kept are None, the others float32.

    Raises:
        SampleReadError: If it is damaged or incomplete.
    """
    values = decode_arrays(data, path)
    maps = [values.pop(f'{TEACHER_MAPS}/{level}', None) for level in range(len(TEACHER_MAP_SHAPES))]
    values[TEACHER_MAPS] = [None if m is None else np.asarray(m).astype(np.float32) for m in maps]
    check_supervision(values, path)
    return values
