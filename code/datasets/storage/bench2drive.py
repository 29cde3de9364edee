"""Clips of Bench2Drive as downloaded (https://github.com/Thinklab-SJTU/Bench2Drive), read as routes.

A clip is recorded at 10 Hz. Samples are 0.5 s apart, so each clip gives five routes, one for each phase:
frame f of phase p is frame 5 f + p of the clip. The town index ends with the phase: ``town12_train0``.

Coordinates are converted to those of :class:`RouteReader`. Poses are those of the ego's bounding box, which
are exact; ``x``, ``y`` and ``theta`` of a clip are from GNSS and compass, noisy to half a meter or NaN.
See ``docs/bench2drive.md``.
"""

import importlib.util
import io
import math
import struct
import zlib
from typing import Any

import numpy as np

from thinktwice.errors import ConfigError, describe

from .arrays import parse_npz
from .errors import SampleReadError, check_name
from .frame_files import MAX_JSON_BYTES, check_number, parse_json
from .images import decode_png

CLIPS_FILE = 'bench2drive.json'
SCHEMA_VERSION = 1
FRAMES_PER_STEP = 5  # 10 Hz to 2 Hz
PHASES = tuple(range(FRAMES_PER_STEP))
EGO_CLASS = 'ego_vehicle'

MAX_POINTS = 200_000  # a sweep has at most 60,000
MAX_DISTANCE = 1000.0  # m; the range of the sensor is 85 m
LIDAR_POSITION = (-0.39, 0.0, 1.84)  # m, ego frame
ATTENUATION = 0.004  # per meter; the files have no intensities
# Header of a LAS file: signature; offset of the points, number of variable length records, point format
# (bit 7: compressed), length of a point record, number of points.
_LAS_HEADER = struct.Struct('<4s92xIIBHI')
MAX_LAS_RECORDS = 16

NO_DEPTH = (0, 255)  # m: below 0.5 m, and sky or beyond 255 m
DEPTH_CODES_PER_METER = 64
RIDER_ID = 4  # as a pedestrian; in CARLA 0.9.10 a bicycle and its rider had the id of vehicles, 10
# From the class ids of CARLA 0.9.15 to those of 0.9.10; ids above 28 become 0, unlabeled.
_CLASS_IDS = (
    *(0, 7, 8, 1, 11, 2, 5, 18, 12, 9, 22, 13, 4, RIDER_ID, 10),
    *(10, 10, 10, 10, 10, 19, 20, 3, 21, 6, 14, 15, 16, 17),
)
CLASS_TABLE = np.pad(np.array(_CLASS_IDS, np.uint8), (0, 256 - len(_CLASS_IDS)))
"""(256,) uint8."""

NUM_ACTIONS = 39  # of the discrete expert
CONCENTRATION = 20.0
"""alpha + beta of the Beta distributions that stand for a recorded control."""


def require_laspy() -> None:
    """Check that the packages that read LAZ files are installed.

    Raises:
        ConfigError: They are not.
    """
    missing = [name for name in ('laspy', 'lazrs') if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'the point clouds of Bench2Drive need {" and ".join(missing)}, an optional extra: '
            'pip install -r requirements/bench2drive.txt'
        )


def parse_clips(data: bytes, path: str) -> dict[str, str]:
    """Read the list of clips: name of a clip to its folder, relative to the root of the dataset."""
    content = parse_json(data, path)
    clips = content.get('clips') if isinstance(content, dict) else None
    if not isinstance(clips, dict) or content.get('schema_version') != SCHEMA_VERSION:
        raise SampleReadError(path, 'damaged, or of another version: run tools/generate_metadata.py again')
    for name, folder in clips.items():
        check_name(name, 'clip')
        for part in str(folder).split('/'):
            check_name(part, 'folder')
    return clips


def parse_annotation(data: bytes, path: str) -> dict[str, Any]:
    """Read one ``anno`` file, gzipped JSON with bare ``NaN``, and check that its first box is the ego's."""
    decoder = zlib.decompressobj(wbits=31)
    try:
        text = decoder.decompress(data, MAX_JSON_BYTES)
    except zlib.error as error:
        raise SampleReadError(path, f'damaged gzip file ({error})') from error
    if decoder.unconsumed_tail:
        raise SampleReadError(path, f'a JSON file of more than {MAX_JSON_BYTES} bytes')
    if not decoder.eof:
        raise SampleReadError(path, 'truncated gzip file' if data else 'empty file')
    values = parse_json(text, path)
    boxes = values.get('bounding_boxes') if isinstance(values, dict) else None
    if not isinstance(boxes, list) or not boxes or not isinstance(boxes[0], dict):
        raise SampleReadError(path, 'expected a JSON object with a list of bounding_boxes')
    if boxes[0].get('class') != EGO_CLASS:
        raise SampleReadError(path, f'the first of its bounding_boxes is not of the class {EGO_CLASS}')
    return values


def measurements_of(annotation: dict[str, Any], path: str) -> dict[str, Any]:
    """Measurements of a frame with the exact pose; without a speed that of the box, without both 0."""
    box = annotation['bounding_boxes'][0]
    x, y, _ = _numbers(box, 'location', path)
    yaw = math.radians(_numbers(box, 'rotation', path)[2])  # pitch, roll, yaw
    speeds = (values.get('speed') for values in (annotation, box))
    target_x, target_y, command = (
        check_number(annotation.get(key), key, path) for key in ('x_target', 'y_target', 'next_command')
    )
    return {
        'x': -y,
        'y': x,
        'theta': (yaw + math.pi / 2) % (2 * math.pi),
        'speed': next((speed for speed in speeds if _is_finite(speed)), 0.0),
        'x_target': -target_y,
        'y_target': target_x,
        'target_command': command,
        **{key: annotation.get(key) for key in ('acceleration', 'angular_velocity', 'weather')},
    }


def action_of(annotation: dict[str, Any], path: str) -> tuple[np.ndarray, np.ndarray]:
    """Beta distributions of acceleration and steer whose modes are the recorded control.

    The acceleration is throttle - brake; in reverse gear the throttle counts as braking.

    Returns:
        Alpha and beta, each (2,) float32.
    """
    throttle, steer, brake = (
        check_number(annotation.get(key), key, path) for key in ('throttle', 'steer', 'brake')
    )
    acceleration = (-throttle if flag_of(annotation, 'reverse', path) else throttle) - brake
    modes = (np.clip([acceleration, steer], -1.0, 1.0) + 1.0) / 2.0
    alpha = 1.0 + modes * (CONCENTRATION - 2.0)
    return alpha.astype(np.float32), (CONCENTRATION - alpha).astype(np.float32)


def parse_expert(data: bytes, path: str) -> dict[str, Any]:
    """Read one ``expert_assessment`` file: the expert's features, value and discrete action."""
    vector = parse_npz(data, path).get('arr_0')
    if vector is None or vector.ndim != 1 or len(vector) < 3 or not np.isfinite(vector).all():
        raise SampleReadError(path, 'expected one vector arr_0 of finite features, value and action')
    *_, value, action = vector.tolist()
    if action not in range(NUM_ACTIONS):
        raise SampleReadError(path, f'the action is {action}, expected 0 to {NUM_ACTIONS - 1}')
    return {'features': vector[:-2].astype(np.float32), 'value': value, 'action_index': int(action)}


def parse_laz(data: bytes, path: str) -> np.ndarray:
    """Read one sweep: (P, 4) float32 x, y, z in the ego frame in meters, and intensity.

    The files have no intensity; it follows from the distance to the sensor as in CARLA.
    """
    import laspy

    if len(data) < _LAS_HEADER.size or not data.startswith(b'LASF'):
        raise SampleReadError(path, 'not a LAS file' if data else 'empty file')
    _, start, records, point_format, length, count = _LAS_HEADER.unpack_from(data)
    if point_format & 0x7F or length != 20 or records > MAX_LAS_RECORDS or start > len(data):
        raise SampleReadError(path, 'damaged, or not a LAS file of point format 0')
    if not 0 < count <= MAX_POINTS:
        raise SampleReadError(path, f'a sweep of {count} points, expected 1 to {MAX_POINTS}')
    try:
        # one thread: the workers of a loader are many
        cloud = laspy.read(io.BytesIO(data), laz_backend=laspy.LazBackend.Lazrs)
        xyz = np.asarray(cloud.xyz)
    except MemoryError:
        raise
    except BaseException as error:
        # a panic of the decoder, which is written in Rust, is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
            raise
        raise SampleReadError(path, f'damaged LAZ file ({describe(error)})') from error
    if xyz.shape != (count, 3):
        raise SampleReadError(path, f'truncated LAZ file: {len(xyz)} points instead of {count}')
    if not (np.abs(xyz) < MAX_DISTANCE).all():
        raise SampleReadError(path, f'holds points that are NaN or more than {MAX_DISTANCE:g} m away')
    points = np.empty((count, 4), np.float32)
    points[:, :3] = xyz
    points[:, 3] = np.exp(-ATTENUATION * np.linalg.norm(xyz - LIDAR_POSITION, axis=1))
    return points


def parse_depth(data: bytes, path: str, size: tuple[int, int]) -> np.ndarray:
    """Read one depth image, in whole meters: (H, W) uint16 codes of :func:`~..labels.decode_depth`."""
    is_color = data[25:26] == b'\x02'  # the color type of a PNG file; such have three equal channels
    meters = decode_png(data, path, size, channels=3 if is_color else 1)
    meters = (meters[..., 0] if is_color else meters).astype(np.uint16)
    meters[np.isin(meters, NO_DEPTH)] = 0
    return meters * np.uint16(DEPTH_CODES_PER_METER)


def _numbers(values: dict[str, Any], key: str, path: str) -> list[float]:
    numbers = values.get(key)
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise SampleReadError(path, f'{key} of the ego is {str(numbers)[:40]}, expected three numbers')
    return [check_number(number, f'{key} of the ego', path) for number in numbers]


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6


def flag_of(annotation: dict[str, Any], key: str, path: str) -> bool:
    """A truth value of an annotation; null is False."""
    value = annotation.get(key)
    if value is not None and not isinstance(value, (bool, int, float)):
        raise SampleReadError(path, f'{key} is {str(value)[:40]!r}, expected a truth value')
    return bool(value)
