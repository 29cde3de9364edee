"""Parsing and checking of the files that are not images: what each must hold.

The expected keys and shapes are those of the format (``docs/data_formats.md``), the same for all experiments.
"""

import json
import math
from typing import Any

import numpy as np

from .arrays import parse_array, parse_pickled_object
from .errors import SampleReadError

MAX_JSON_BYTES = 16 * 2**20
POINT_CHANNELS = 4  # x, y, z in meters (ego frame, z from the ground), intensity
# Numbers of `measurements` that reading a sample needs; theta may be NaN.
MEASUREMENT_NUMBERS = ('x', 'y', 'theta', 'speed', 'x_target', 'y_target', 'target_command')
MAY_BE_NAN = frozenset({'theta'})
TEACHER_MAP_SHAPES = (
    (8, 94, 94),
    (16, 45, 45),
    (32, 21, 21),
    (64, 10, 10),
    (128, 4, 4),
    (256, 2, 2),
)
SUPERVISION_SHAPES = {'action_mu': (2,), 'action_sigma': (2,), 'features': (256,), 'value': ()}

_NUMBERS = (bool, int, float, np.generic, np.ndarray)


def parse_json(data: bytes, path: str) -> Any:
    """Read JSON, with the bare ``NaN`` and ``Infinity`` that the recorder writes.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.

    Returns:
        The parsed value.

    Raises:
        SampleReadError: It is not JSON, too large or too deeply nested.
    """
    if len(data) > MAX_JSON_BYTES:
        raise SampleReadError(path, f'a JSON file of {len(data)} bytes, more than {MAX_JSON_BYTES}')
    try:
        return json.loads(data.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        reason = 'empty file' if not data else f'not readable as JSON ({error})'
        raise SampleReadError(path, reason) from error


def parse_measurements(data: bytes, path: str) -> dict[str, Any]:
    """Read one ``measurements`` file and check the numbers that samples need.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.

    Returns:
        All keys of the file. ``theta`` may be NaN (the compass gives none for some frames).

    Raises:
        SampleReadError: A needed key is absent, not a number or not finite.
    """
    values = parse_json(data, path)
    if not isinstance(values, dict):
        raise SampleReadError(path, f'expected a JSON object, found {type(values).__name__}')
    for key in MEASUREMENT_NUMBERS:
        if key not in values:
            raise SampleReadError(path, f'the key {key!r} is missing')
        number = values[key]
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise SampleReadError(path, f'{key} is {str(number)[:40]!r}, expected a number')
        allowed = key in MAY_BE_NAN and isinstance(number, float) and math.isnan(number)
        if not allowed and not _is_finite(number):
            raise SampleReadError(path, f'{key} is {str(number)[:40]}, expected a finite number')
    return values


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the range of floats
        return False


def parse_points(data: bytes, path: str) -> np.ndarray:
    """Read one LiDAR sweep.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.

    Returns:
        (P, 4) float32; x, y, z in meters in the ego frame of its frame, intensity.

    Raises:
        SampleReadError: The shape or type differs, it is empty, or a value is not finite.
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

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.

    Returns:
        All keys of the file; see :func:`check_supervision`.

    Raises:
        SampleReadError: The pickle is refused or a value has another shape, is not finite, or is a Beta
            parameter that is not positive.
    """
    values = parse_pickled_object(data, path)
    check_supervision(values, path)
    return values


def check_supervision(values: Any, path: str) -> None:
    """Check the shapes and ranges of one frame's supervision.

    Args:
        values: What was read; must be a dictionary with ``action_mu`` (2,), ``action_sigma`` (2,),
            ``features`` (256,), ``value`` (), ``only_ap_brake`` and ``cnn_features``, a list of six maps
            of ``TEACHER_MAP_SHAPES`` (or None for a map that was not stored).
        path: Where it came from, for messages.

    Raises:
        SampleReadError: Something differs.
    """
    if not isinstance(values, dict):
        raise SampleReadError(path, f'expected a dictionary, found {type(values).__name__}')
    for key in (*SUPERVISION_SHAPES, 'only_ap_brake', 'cnn_features'):
        if key not in values:
            raise SampleReadError(path, f'the key {key!r} is missing')
    for key, shape in SUPERVISION_SHAPES.items():
        _check_floats(values[key], shape, key, path)
    for key in ('action_mu', 'action_sigma'):
        if not (np.asarray(values[key]) > 0).all():
            raise SampleReadError(path, f'{key} is {values[key]}, Beta parameters must be positive')
    if not isinstance(values['only_ap_brake'], _NUMBERS) or np.ndim(values['only_ap_brake']) != 0:
        raise SampleReadError(path, 'only_ap_brake must be one truth value')
    maps = values['cnn_features']
    if not isinstance(maps, (list, tuple)) or len(maps) != len(TEACHER_MAP_SHAPES):
        raise SampleReadError(path, f'cnn_features must be a list of {len(TEACHER_MAP_SHAPES)} maps')
    for level, (teacher_map, shape) in enumerate(zip(maps, TEACHER_MAP_SHAPES, strict=True)):
        if teacher_map is not None:
            _check_floats(teacher_map, shape, f'cnn_features[{level}]', path)


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
