"""The files of a frame that are not images: what each must hold, as recorded and in its small packed form.

The expected keys and shapes are those of the format (``docs/data_formats.md``), the same for all experiments.
``path`` says where the bytes came from, for messages; whatever is wrong with them is raised as
:class:`SampleReadError`.

Packed points: coordinates as 16-bit steps of the sweep's largest coordinate (error at most
``max|xyz| / 65534``: 1.3 mm for 85 m), stored as the difference to the point before, which compresses to
less; intensity as 8-bit steps of the sweep's range (error at most 1/510 of it).

Packed teacher outputs: maps in half precision (relative error at most 2^-11, values up to 65504), all other
numbers as recorded.
"""

import io
import json
import math
import zipfile
from typing import Any

import numpy as np

from thinktwice.errors import describe

from .arrays import parse_array, parse_npz, parse_pickled_object
from .errors import SampleReadError

MAX_JSON_BYTES = 16 * 2**20
POINT_CHANNELS = 4  # x, y, z in meters (ego frame, z from the ground), intensity
# Numbers of `measurements` that reading a sample needs; theta may be NaN.
MEASUREMENT_NUMBERS = ('x', 'y', 'theta', 'speed', 'x_target', 'y_target', 'target_command')
MAY_BE_NAN = frozenset({'theta'})
TEACHER_MAPS = 'cnn_features'
TEACHER_MAP_SHAPES = (
    (8, 94, 94),
    (16, 45, 45),
    (32, 21, 21),
    (64, 10, 10),
    (128, 4, 4),
    (256, 2, 2),
)
SUPERVISION_SHAPES = {'action_mu': (2,), 'action_sigma': (2,), 'value': ()}
FEATURE_SHAPE = (256,)
MAX_COORDINATE_STEP = 32767
MAX_INTENSITY_STEP = 255

_NUMBERS = (bool, int, float, np.generic, np.ndarray)


def parse_json(data: bytes, path: str) -> Any:
    """Read JSON, with the bare ``NaN`` and ``Infinity`` that the recorder writes."""
    if len(data) > MAX_JSON_BYTES:
        raise SampleReadError(path, f'a JSON file of {len(data)} bytes, more than {MAX_JSON_BYTES}')
    try:
        return json.loads(data.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        reason = 'empty file' if not data else f'not readable as JSON ({describe(error)})'
        raise SampleReadError(path, reason) from error


def parse_measurements(data: bytes, path: str) -> dict[str, Any]:
    """Read one ``measurements`` file and check that the numbers that samples need are finite.

    Returns:
        All keys of the file. ``theta`` may be NaN (the compass gives none for some frames).
    """
    values = parse_json(data, path)
    if not isinstance(values, dict):
        raise SampleReadError(path, f'expected a JSON object, found {type(values).__name__}')
    for key in MEASUREMENT_NUMBERS:
        if key not in values:
            raise SampleReadError(path, f'the key {key!r} is missing')
        check_number(values[key], key, path, may_be_nan=key in MAY_BE_NAN)
    return values


def check_number(number: Any, key: str, path: str, may_be_nan: bool = False) -> float:
    """Return a number of a JSON file, which must be finite, or NaN where that is allowed."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise SampleReadError(path, f'{key} is {str(number)[:40]!r}, expected a number')
    try:
        is_allowed = math.isfinite(number) or (math.isnan(number) and may_be_nan)
    except OverflowError:  # an integer beyond the range of floats
        is_allowed = False
    if not is_allowed:
        raise SampleReadError(path, f'{key} is {str(number)[:40]}, expected a finite number')
    return number


def parse_points(data: bytes, path: str) -> np.ndarray:
    """Read one LiDAR sweep.

    Returns:
        (P, 4) float32; finite x, y, z in meters in the ego frame of its frame, intensity.
    """
    points = parse_array(data, path)
    if points.ndim != 2 or points.shape[1] != POINT_CHANNELS or points.dtype.kind != 'f':
        raise SampleReadError(
            path, f'expected P x {POINT_CHANNELS} floats, found {points.dtype} of shape {points.shape}'
        )
    if len(points) == 0:
        raise SampleReadError(path, 'a sweep without points')
    points = points.astype(np.float32, copy=False)
    if not np.isfinite(points).all():
        count = int((~np.isfinite(points).all(axis=1)).sum())
        raise SampleReadError(path, f'{count} of {len(points)} points are NaN or infinite')
    return points


def parse_supervision(data: bytes, path: str) -> dict[str, Any]:
    """Read one ``supervision`` file (a pickled dictionary).

    Returns:
        All keys of the file, those of :func:`check_supervision` checked.
    """
    values = parse_pickled_object(data, path)
    check_supervision(values, path, FEATURE_SHAPE)
    return values


def check_supervision(values: Any, path: str, feature_shape: tuple[int, ...]) -> None:
    """Check the shapes and ranges of one frame's supervision.

    Args:
        values: What was read; must be a dictionary with ``action_mu`` (2,) and ``action_sigma`` (2,), both
            positive, ``features``, ``value`` (), ``only_ap_brake`` and ``cnn_features``, a list of
            six maps of ``TEACHER_MAP_SHAPES`` (or None for a map that was not stored).
        path: See the module.
        feature_shape: Of ``features``.
    """
    if not isinstance(values, dict):
        raise SampleReadError(path, f'expected a dictionary, found {type(values).__name__}')
    shapes = {**SUPERVISION_SHAPES, 'features': feature_shape}
    for key in (*shapes, 'only_ap_brake', TEACHER_MAPS):
        if key not in values:
            raise SampleReadError(path, f'the key {key!r} is missing')
    for key, shape in shapes.items():
        _check_floats(values[key], shape, key, path)
    for key in ('action_mu', 'action_sigma'):
        if not (np.asarray(values[key]) > 0).all():
            raise SampleReadError(path, f'{key} is {values[key]}, Beta parameters must be positive')
    if not isinstance(values['only_ap_brake'], _NUMBERS) or np.ndim(values['only_ap_brake']) != 0:
        raise SampleReadError(path, 'only_ap_brake must be one truth value')
    maps = values[TEACHER_MAPS]
    if not isinstance(maps, (list, tuple)) or len(maps) != len(TEACHER_MAP_SHAPES):
        raise SampleReadError(path, f'{TEACHER_MAPS} must be a list of {len(TEACHER_MAP_SHAPES)} maps')
    for level, (teacher_map, shape) in enumerate(zip(maps, TEACHER_MAP_SHAPES, strict=True)):
        if teacher_map is not None:
            _check_floats(teacher_map, shape, f'{TEACHER_MAPS}[{level}]', path)


def _check_floats(value: Any, shape: tuple[int, ...], key: str, path: str) -> None:
    # a list is not converted: one that holds the same lists many times would become an absurd array
    if not isinstance(value, _NUMBERS):
        raise SampleReadError(path, f'{key} is a {type(value).__name__}, expected numbers of shape {shape}')
    array = np.asarray(value)
    if array.dtype.kind not in 'fiu' or array.shape != shape:
        raise SampleReadError(
            path, f'{key} is {array.dtype} of shape {array.shape}, expected numbers of shape {shape}'
        )
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
        raise SampleReadError(path, f'{key} holds NaN or infinite values')


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
    """Unpack a LiDAR sweep of :func:`encode_points`: (P, 4) float32 x, y, z in meters, intensity."""
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
            if not isinstance(value, _NUMBERS) or np.asarray(value).dtype.kind not in 'biuf':
                raise ValueError(f'supervision: {key} is {value!r:.40}, only numbers can be packed')
            arrays[key] = np.asarray(value)
    for level in levels:
        teacher_map = values[TEACHER_MAPS][level]
        if teacher_map is not None:
            teacher_map = np.asarray(teacher_map, np.float32)
            # a map with values beyond half precision stays as it is
            is_half = np.abs(teacher_map).max(initial=0) <= np.finfo(np.float16).max
            arrays[f'{TEACHER_MAPS}_{level}'] = teacher_map.astype('<f2') if is_half else teacher_map
    return _npz_of(arrays)


def decode_supervision(data: bytes, path: str) -> dict[str, Any]:
    """Unpack the teacher's outputs of :func:`encode_supervision`.

    Returns:
        As recorded; levels of ``cnn_features`` that were not kept are None, the others float32.
    """
    arrays = parse_npz(data, path)
    maps = [arrays.pop(f'{TEACHER_MAPS}_{level}', None) for level in range(len(TEACHER_MAP_SHAPES))]
    values: dict[str, Any] = {key: array if array.ndim else array[()] for key, array in arrays.items()}
    values[TEACHER_MAPS] = [None if m is None else m.astype(np.float32) for m in maps]
    # one vector of any width, which the packer has checked
    check_supervision(values, path, np.shape(values.get('features', ()))[:1] or FEATURE_SHAPE)
    return values


def _npz_of(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    # not np.savez_compressed: a key of the recording may be the name of one of its arguments
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w') as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return stream.getvalue()
