"""The sensor rig of a dataset, read from ``calibration.json`` at its root.

The 2023 recordings have no such file: a dataset without one uses the rig in
``calibrations/carla.json`` of this package.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from thinktwice.errors import ConfigError

from .metadata import DatasetMetadata
from .storage import DatasetStorage, SampleReadError, check_name, parse_json
from .storage.images import PNG_SIGNATURE

SCHEMA_VERSION = 1
CALIBRATION_FILE = 'calibration.json'


@dataclass(frozen=True)
class CameraCalibration:
    """One camera; ``rgb``, ``depth`` and ``seg`` are the folders of its images.

    The stored image is the one in the files: distorted and full size as recorded, or undistorted and
    smaller in a packed dataset. The undistorted image has ``Calibration.image_size`` and ``intrinsics``.

    Attributes:
        raw_intrinsics: (4,) float64 fx, fy, cx, cy of the stored image, pixels; integers are pixel centers.
        distortion: (5,) float64 k1, k2, p1, p2, k3; zeros for a pinhole.
        intrinsics: (4,) float64 fx, fy, cx, cy after undistortion.
        cam2ego: (4, 4) float64, camera (x right, y down, z forward) to ego (x forward, y right, z up).
        depth_offset: Offset to add to a recorded depth, meters.
    """

    name: str
    rgb: str
    depth: str
    seg: str
    raw_intrinsics: np.ndarray
    distortion: np.ndarray
    intrinsics: np.ndarray
    cam2ego: np.ndarray
    depth_offset: float

    @property
    def is_pinhole(self) -> bool:
        """Whether the stored image has no lens distortion."""
        return not self.distortion.any()

    @property
    def intrinsic_matrix(self) -> np.ndarray:
        """``intrinsics`` as a (3, 3) float64 matrix."""
        fx, fy, cx, cy = self.intrinsics
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Calibration:
    """The sensor rig and the constants of one dataset.

    Attributes:
        cameras: In the order of the sample's camera axis.
        image_size: Height and width that ``intrinsics`` and ``ida_mats`` refer to, pixels.
        stored_size: Height and width of the images in the files.
        frame_interval: Seconds between frames.
        north_per_degree: Meters per degree of latitude.
        east_per_degree: Meters per degree of longitude.
        lidar_height: Height of the LiDAR above the ground, meters.
        bev_x: Range of the bird's-eye view along x (forward), meters.
        bev_y: Range of the bird's-eye view along y (right), meters.
        lights_split: Whether the semantic images have separate ids for red and green lights, as packed ones.
        lidar_size: Beams of the LiDAR and firings of each per turn, if known.
    """

    cameras: tuple[CameraCalibration, ...]
    image_size: tuple[int, int]
    stored_size: tuple[int, int]
    frame_interval: float
    north_per_degree: float
    east_per_degree: float
    lidar_height: float
    bev_x: tuple[float, float]
    bev_y: tuple[float, float]
    lights_split: bool = False
    lidar_size: tuple[int, int] | None = None

    def select(self, names: Sequence[str] | None) -> 'Calibration':
        """Return the rig reduced to some of its cameras, in the order of the names; None keeps all.

        Raises:
            ConfigError: If a name is unknown; the message lists the known names.
        """
        if names is None:
            return self
        cameras = {camera.name: camera for camera in self.cameras}
        for name in names:
            if name not in cameras:
                raise ConfigError(
                    f'cameras={list(names)}: no camera {name!r} in the calibration, it has: '
                    f'{", ".join(cameras)}'
                )
        return replace(self, cameras=tuple(cameras[name] for name in names))


def parse_calibration(data: dict[str, Any], path: str) -> Calibration:
    """Check a calibration, as read from ``calibration.json`` at ``path``, and convert it to arrays.

    Raises:
        ValueError: If a key is missing or a value is invalid; the message names
            the file and the key.
    """
    reader = _Fields(data, path)
    if reader.get('schema_version') != SCHEMA_VERSION:
        raise ValueError(
            f'{path}: schema_version is {data.get("schema_version")!r}, this version reads {SCHEMA_VERSION}'
        )
    cameras = reader.get('cameras')
    if not isinstance(cameras, list) or not cameras:
        raise ValueError(f'{path}: cameras must be a list with at least one camera')
    parsed = tuple(_parse_camera(camera, f'{path}: cameras[{i}]') for i, camera in enumerate(cameras))
    if len({camera.name for camera in parsed}) != len(parsed):
        raise ValueError(f'{path}: two cameras have the same name')
    gnss, bev = _Fields(reader.get('gnss'), f'{path}: gnss'), _Fields(reader.get('bev'), f'{path}: bev')
    image_size = reader.size('image_size')
    lidar = _Fields(reader.get('lidar'), f'{path}: lidar')
    return Calibration(
        cameras=parsed,
        image_size=image_size,
        stored_size=reader.size('stored_size') if 'stored_size' in data else image_size,
        frame_interval=reader.positive('frame_interval'),
        north_per_degree=gnss.positive('north_per_degree'),
        east_per_degree=gnss.positive('east_per_degree'),
        lidar_height=float(lidar.numbers('height', ())),
        bev_x=bev.interval('x'),
        bev_y=bev.interval('y'),
        lights_split=bool(data.get('lights_split', False)),
        lidar_size=lidar.size('size', '[beams, firings]') if 'size' in data['lidar'] else None,
    )


def _parse_camera(data: Any, place: str) -> CameraCalibration:
    reader = _Fields(data, place)
    cam2ego = reader.numbers('cam2ego', (4, 4))
    rotation = cam2ego[:3, :3]
    is_rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    if not is_rigid or not np.allclose(cam2ego[3], [0, 0, 0, 1]):
        raise ValueError(f'{place}: cam2ego is not a rotation and translation')
    return CameraCalibration(
        name=reader.folder('name'),
        rgb=reader.folder('rgb'),
        depth=reader.folder('depth'),
        seg=reader.folder('seg'),
        raw_intrinsics=reader.intrinsics('raw_intrinsics'),
        distortion=reader.numbers('distortion', (5,)),
        intrinsics=reader.intrinsics('intrinsics'),
        cam2ego=cam2ego,
        depth_offset=float(reader.numbers('depth_offset', ())),
    )


class _Fields:
    """Typed access to one JSON object; every error names the file and key."""

    def __init__(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f'{place}: expected a JSON object, found {type(data).__name__}')
        self._data, self._place = data, place

    def get(self, key: str) -> Any:
        if key not in self._data:
            raise ValueError(f'{self._place}: the key {key!r} is missing')
        return self._data[key]

    def numbers(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        value = self.get(key)
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.full(1, np.nan)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f'{self._place}: {key} must be finite numbers of shape {shape}, is {value!r}')
        return array

    def positive(self, key: str) -> float:
        value = float(self.numbers(key, ()))
        if value <= 0:
            raise ValueError(f'{self._place}: {key} must be positive, is {value}')
        return value

    def size(self, key: str, parts: str = '[height, width] in pixels') -> tuple[int, int]:
        height, width = self.numbers(key, (2,))
        if min(height, width) < 1 or max(height, width) > 2**15 or height % 1 or width % 1:
            raise ValueError(f'{self._place}: {key} must be {parts}, is {self.get(key)!r}')
        return int(height), int(width)

    def interval(self, key: str) -> tuple[float, float]:
        low, high = self.numbers(key, (2,))
        if low >= high:
            raise ValueError(f'{self._place}: {key} must be [low, high], is {self.get(key)!r}')
        return float(low), float(high)

    def intrinsics(self, key: str) -> np.ndarray:
        values = self.numbers(key, (4,))
        if min(values[:2]) <= 0:
            raise ValueError(f'{self._place}: {key} has a focal length of {min(values[:2])}')
        return values

    def folder(self, key: str) -> str:
        try:
            return check_name(self.get(key), key)
        except SampleReadError as error:
            raise ValueError(f'{self._place}: {error}') from error


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """Convert a calibration to JSON values; the inverse of :func:`parse_calibration`."""
    return {
        'schema_version': SCHEMA_VERSION,
        'frame_interval': calibration.frame_interval,
        'image_size': list(calibration.image_size),
        'stored_size': list(calibration.stored_size),
        'lights_split': calibration.lights_split,
        'gnss': {
            'north_per_degree': calibration.north_per_degree,
            'east_per_degree': calibration.east_per_degree,
        },
        'cameras': [
            {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in vars(camera).items()
            }
            for camera in calibration.cameras
        ],
        'lidar': {
            'height': calibration.lidar_height,
            **({} if calibration.lidar_size is None else {'size': list(calibration.lidar_size)}),
        },
        'bev': {'x': list(calibration.bev_x), 'y': list(calibration.bev_y)},
    }


def package_calibration() -> Calibration:
    """Read the rig of the 2023 recordings, which is included in the package."""
    file = resources.files('thinktwice.datasets') / 'calibrations/carla.json'
    return parse_calibration(json.loads(file.read_text(encoding='utf-8')), str(file))


def load_calibration(storage: DatasetStorage, metadata: DatasetMetadata | None = None) -> Calibration:
    """Read the calibration of a dataset, or the package's CARLA rig if it has none.

    If ``metadata`` are given, the CARLA rig is used only if it fits the size of the dataset's first image.

    Raises:
        ValueError: If the file is not a valid calibration.
        ConfigError: If the file is missing and the images don't fit the CARLA rig.
        SampleReadError: If the file can't be read or is not JSON.
    """
    path = storage.location(CALIBRATION_FILE)
    try:
        data = storage.read_bytes(CALIBRATION_FILE)
    except SampleReadError as error:
        if not error.missing:
            raise
        rig = package_calibration()
        size = _first_image_size(storage, metadata, rig) if metadata else None
        if size is not None and size != rig.stored_size:
            raise ConfigError(
                f'{path} is missing: the images have {size[0]}x{size[1]} pixels (height x width), not the '
                f'{rig.stored_size[0]}x{rig.stored_size[1]} of the CARLA rig that is used without this '
                'file. Put the calibration of the dataset there'
            ) from error
        return rig
    return parse_calibration(parse_json(data, path), path)


def _first_image_size(
    storage: DatasetStorage, metadata: DatasetMetadata, rig: Calibration
) -> tuple[int, int] | None:
    """Height and width in the header of the first PNG image, None if there is no readable one."""
    try:
        town, route, _ = next(metadata.routes())
        data = storage.read_bytes(f'{town}/{route}/{rig.cameras[0].rgb}/0000.png')
    except (StopIteration, SampleReadError):
        return None  # reported when the sample is read
    if not data.startswith(PNG_SIGNATURE) or len(data) < 24:
        return None
    return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
