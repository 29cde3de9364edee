"""Small forms of LiDAR sweeps and teacher outputs in packed datasets, both ``.npz`` files.

Points: coordinates as 16-bit steps of the sweep's largest coordinate (error at most ``max|xyz| / 65534``:
1.3 mm for 85 m), stored as the difference to the point before, which compresses to less; intensity as
8-bit steps of the sweep's range (error at most 1/510 of it).

Teacher outputs: maps in half precision (relative error at most 2^-11, values up to 65504), all other
numbers as recorded.
"""

import io
import zipfile
from typing import Any

import numpy as np

from .arrays import parse_npz
from .errors import SampleReadError
from .records import TEACHER_MAP_SHAPES, check_supervision

MAX_COORDINATE_STEP = 32767
MAX_INTENSITY_STEP = 255
TEACHER_MAPS = 'cnn_features'


def _npz_of(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w') as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return stream.getvalue()


def encode_points(points: np.ndarray) -> bytes:
    """Pack a LiDAR sweep; the order is kept, errors are those of the module's description.

    Args:
        points: (P, 4) float32 x, y, z in meters, intensity; finite.

    Returns:
        An ``.npz`` file: ``coordinate_differences`` (3, P) int16, ``coordinate_step`` in meters,
        ``intensity`` (P,) uint8, ``intensity_range`` (lowest, highest).
    """
    step = (float(np.abs(points[:, :3]).max()) or 1.0) / MAX_COORDINATE_STEP
    low, high = float(points[:, 3].min()), float(points[:, 3].max())
    # one coordinate after the other, not point by point: a third smaller
    coordinates = np.ascontiguousarray(np.rint(points[:, :3].T.astype(np.float64) / step).astype('<i2'))
    intensity = (points[:, 3].astype(np.float64) - low) / (((high - low) or 1.0) / MAX_INTENSITY_STEP)
    return _npz_of(
        {
            # wraps around where two points are farther apart than 16 bits, and so does the sum
            'coordinate_differences': np.diff(coordinates, axis=1, prepend=np.int16(0)),
            'coordinate_step': np.array(step),
            'intensity': np.rint(intensity).astype(np.uint8),
            'intensity_range': np.array([low, high]),
        }
    )


def decode_points(data: bytes, path: str) -> np.ndarray:
    """Unpack a LiDAR sweep.

    Args:
        data: What :func:`encode_points` gives.
        path: Where it came from, for messages.

    Returns:
        (P, 4) float32 x, y, z in meters, intensity.

    Raises:
        SampleReadError: It is damaged.
    """
    arrays = parse_npz(data, path)
    try:
        differences, intensity = arrays['coordinate_differences'], arrays['intensity']
        step, (low, high) = float(arrays['coordinate_step']), arrays['intensity_range']
        points = np.empty((len(intensity), 4), np.float32)
        points[:, :3] = np.cumsum(differences, axis=1, dtype=np.int16).T * np.float32(step)
        points[:, 3] = intensity * np.float32(((high - low) or 1.0) / MAX_INTENSITY_STEP)
        points[:, 3] += np.float32(low)
    except (KeyError, ValueError, TypeError) as error:
        raise SampleReadError(path, f'damaged packed sweep ({error})') from error
    if not len(points) or not np.isfinite(points).all():
        raise SampleReadError(path, 'damaged packed sweep (no points, or not finite)')
    return points


def encode_supervision(values: dict[str, Any], levels: tuple[int, ...]) -> bytes:
    """Pack the teacher's outputs.

    Args:
        values: As recorded, checked.
        levels: Levels of ``cnn_features`` to keep.

    Returns:
        An ``.npz`` file with an array for every key, and ``cnn_features_LEVEL`` for every map.

    Raises:
        ValueError: A value is neither a number nor an array of numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    for key, value in values.items():
        if key != TEACHER_MAPS:
            array = (
                np.asarray(value) if isinstance(value, (bool, int, float, np.generic, np.ndarray)) else None
            )
            if array is None or array.dtype.kind not in 'biuf':
                raise ValueError(f'supervision: {key} is {value!r:.40}, only numbers can be packed')
            arrays[key] = array
    for level in levels:
        teacher_map = values[TEACHER_MAPS][level]
        if teacher_map is not None:
            arrays[f'{TEACHER_MAPS}_{level}'] = _half(np.asarray(teacher_map, np.float32))
    return _npz_of(arrays)


def _half(array: np.ndarray) -> np.ndarray:
    # a map with values beyond half precision stays as it is
    return array.astype('<f2') if np.abs(array).max(initial=0) <= np.finfo(np.float16).max else array


def decode_supervision(data: bytes, path: str) -> dict[str, Any]:
    """Unpack the teacher's outputs.

    Args:
        data: What :func:`encode_supervision` gives.
        path: Where it came from, for messages.

    Returns:
        As recorded; levels of ``cnn_features`` that were not kept are None, the others float32.

    Raises:
        SampleReadError: It is damaged or incomplete.
    """
    arrays = parse_npz(data, path)
    maps = [arrays.pop(f'{TEACHER_MAPS}_{level}', None) for level in range(len(TEACHER_MAP_SHAPES))]
    values: dict[str, Any] = {key: array if array.ndim else array[()] for key, array in arrays.items()}
    values[TEACHER_MAPS] = [None if m is None else m.astype(np.float32) for m in maps]
    check_supervision(values, path)
    return values
