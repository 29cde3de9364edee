"""The sensor rig of a dataset: data that travels with it, not constants in code.

A dataset holds ``calibration.json`` at its root. One without it (the recordings
of 2023) is read with the package's ``calibrations/carla.json``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from thinktwice.errors import ConfigError

from .storage import DatasetStorage, SampleReadError, check_name, parse_json

SCHEMA_VERSION = 1
CALIBRATION_FILE = 'calibration.json'


@dataclass(frozen=True)
class CameraCalibration:
    """One camera.

    The stored image is what the files hold: distorted and of full size as
    recorded, or already undistorted and smaller in a packed dataset. The image
    after undistortion has ``Calibration.image_size`` and ``intrinsics``.

    Attributes:
        name (str): Such as ``front``.
        rgb (str): Folder of the colour images.
        depth (str): Folder of the depth images.
        seg (str): Folder of the semantic images.
        raw_intrinsics (np.ndarray): (4,) float64 fx, fy, cx, cy of the stored
            image, pixels; integers are pixel centres.
        distortion (np.ndarray): (5,) float64 k1, k2, p1, p2, k3; zeros for a
            pinhole.
        intrinsics (np.ndarray): (4,) float64 fx, fy, cx, cy after undistortion.
        cam2ego (np.ndarray): (4, 4) float64, camera (x right, y down, z
            forward) to ego (x forward, y right, z up).
        depth_offset (float): Metres to add to a recorded depth.
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
        """Whether the stored image has no lens distortion.

        Returns:
            bool: True for a pinhole.
        """
        return not self.distortion.any()

    @property
    def intrinsic_matrix(self) -> np.ndarray:
        """The matrix of ``intrinsics``.

        Returns:
            np.ndarray: (3, 3) float64.
        """
        fx, fy, cx, cy = self.intrinsics
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    @property
    def ego2img(self) -> np.ndarray:
        """From ego points to undistorted pixels (before resizing and cropping).

        Returns:
            np.ndarray: (4, 4) float64; divide rows 0 and 1 by row 2.
        """
        matrix = np.eye(4)
        matrix[:3, :3] = self.intrinsic_matrix
        return matrix @ np.linalg.inv(self.cam2ego)


@dataclass(frozen=True)
class Calibration:
    """The rig and the constants of one dataset.

    Attributes:
        cameras (tuple[CameraCalibration, ...]): In the order of the sample's
            camera axis.
        image_size (tuple[int, int]): Height and width that ``intrinsics`` and
            ``ida_mats`` refer to, pixels.
        stored_size (tuple[int, int]): Height and width of the files.
        frame_interval (float): Seconds between frames.
        north_per_degree (float): Metres a degree of latitude.
        east_per_degree (float): Metres a degree of longitude.
        lidar_height (float): Metres from the ground to the LiDAR.
        bev_x (tuple[float, float]): Range ahead, metres in the ego frame.
        bev_y (tuple[float, float]): Range to the right, metres.
        lights_split (bool): Whether the semantic images tell red and green
            lights apart already (ids 24 and 25), as packed ones do.
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

    def camera(self, name: str) -> CameraCalibration:
        """Find a camera by name.

        Args:
            name (str): Such as ``front``.

        Returns:
            CameraCalibration: The camera.

        Raises:
            ValueError: If there is none of that name.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        names = ', '.join(camera.name for camera in self.cameras)
        raise ValueError(f'no camera {name!r} in the calibration, it has: {names}')

    def select(self, names: Sequence[str] | None) -> 'Calibration':
        """Give the rig with some of its cameras.

        Args:
            names (Sequence[str] | None): Cameras in the order of the result, or
                None for all as they are.

        Returns:
            Calibration: The smaller rig.

        Raises:
            ConfigError: If there is none of a name; the message lists those that
                there are.
        """
        if names is None:
            return self
        try:
            return replace(self, cameras=tuple(self.camera(name) for name in names))
        except ValueError as error:
            raise ConfigError(f'cameras={list(names)}: {error}') from error


def parse_calibration(data: dict[str, Any], path: str) -> Calibration:
    """Check a calibration and turn it into arrays.

    Args:
        data (dict[str, Any]): Parsed ``calibration.json``.
        path (str): Where it came from, for the message.

    Returns:
        Calibration: The rig.

    Raises:
        ValueError: If a key is missing or a value can't be right; the message
            names the file and the key.
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
    return Calibration(
        cameras=parsed,
        image_size=image_size,
        stored_size=reader.size('stored_size') if 'stored_size' in data else image_size,
        frame_interval=reader.positive('frame_interval'),
        north_per_degree=gnss.positive('north_per_degree'),
        east_per_degree=gnss.positive('east_per_degree'),
        lidar_height=float(_Fields(reader.get('lidar'), f'{path}: lidar').numbers('height', ())),
        bev_x=bev.interval('x'),
        bev_y=bev.interval('y'),
        lights_split=bool(data.get('lights_split', False)),
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
    """Typed access to one JSON object, with the place in every error."""

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

    def size(self, key: str) -> tuple[int, int]:
        height, width = self.numbers(key, (2,))
        if min(height, width) < 1 or max(height, width) > 2**15 or height % 1 or width % 1:
            raise ValueError(f'{self._place}: {key} must be [height, width] in pixels, is {self.get(key)!r}')
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
    """Give the JSON form of a calibration; :func:`parse_calibration` reads it back.

    Args:
        calibration (Calibration): The rig.

    Returns:
        dict[str, Any]: Plain lists, numbers and text.
    """
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
                'name': camera.name,
                'rgb': camera.rgb,
                'depth': camera.depth,
                'seg': camera.seg,
                'raw_intrinsics': camera.raw_intrinsics.tolist(),
                'distortion': camera.distortion.tolist(),
                'intrinsics': camera.intrinsics.tolist(),
                'cam2ego': camera.cam2ego.tolist(),
                'depth_offset': camera.depth_offset,
            }
            for camera in calibration.cameras
        ],
        'lidar': {'height': calibration.lidar_height},
        'bev': {'x': list(calibration.bev_x), 'y': list(calibration.bev_y)},
    }


def package_calibration(name: str = 'carla') -> Calibration:
    """Give a rig that comes with the package.

    Args:
        name (str): ``carla``: the rig of the 2023 recordings.

    Returns:
        Calibration: The rig.
    """
    file = resources.files('thinktwice.datasets') / 'calibrations' / f'{check_name(name, "calibration")}.json'
    return parse_calibration(json.loads(file.read_text(encoding='utf-8')), str(file))


def load_calibration(storage: DatasetStorage) -> Calibration:
    """Read the calibration of a dataset, or the package's where it has none.

    Args:
        storage (DatasetStorage): The dataset.

    Returns:
        Calibration: The rig.

    Raises:
        ValueError: If the file is not a valid calibration.
        SampleReadError: If it can't be read or is not JSON.
    """
    try:
        data = storage.read_bytes(CALIBRATION_FILE)
    except SampleReadError as error:
        if error.missing:
            return package_calibration()
        raise
    path = storage.location(CALIBRATION_FILE)
    return parse_calibration(parse_json(data, path), path)
