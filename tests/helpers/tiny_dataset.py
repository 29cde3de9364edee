"""A made-up dataset in the recorded format: few, small frames whose contents tests can predict."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from thinktwice.datasets.metadata import DatasetMetadata, RouteRecord, save_metadata

SIZE = (36, 64)
CAMERAS = ('front', 'left')
MAP_SHAPES = ((8, 94, 94), (16, 45, 45), (32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2))
SPEED = 6.0
BRAKE_FRAME = 3
FRAME_INTERVAL = 0.5


def write_dataset(root: Path, routes: dict[str, int]) -> Path:
    """Write routes such as ``{'town01_00/routes_a': 8}`` with their metadata and calibration."""
    towns: dict[str, dict[str, RouteRecord]] = {}
    for name, frames in routes.items():
        town, route = name.split('/')
        towns.setdefault(town, {})[route] = RouteRecord(frames, frames, 'complete')
        for frame in range(frames):
            write_frame(root / name, frame)
    save_metadata(DatasetMetadata(towns), root)
    (root / 'calibration.json').write_text(json.dumps(calibration()))
    return root


def measurements_of(frame: int) -> dict[str, Any]:
    """A right turn at constant speed: heading grows by 0.1 rad a frame."""
    theta = 0.3 + 0.1 * frame
    return {
        'x': 40.0 + 2.5 * frame,
        'y': -20.0 + 1.5 * frame,
        'theta': theta,
        'speed': SPEED + 0.1 * frame,
        'x_target': 90.0,
        'y_target': 30.0,
        'target_command': 1 + frame % 6,
    }


def supervision_of(frame: int) -> dict[str, Any]:
    generator = np.random.default_rng(frame)
    return {
        'action': np.zeros(3, np.float32),
        'action_mu': np.array([2.0 + frame, 3.0], np.float32),
        'action_sigma': np.array([4.0, 5.0 + frame], np.float32),
        'value': np.float32(frame / 10),
        'features': generator.random(256, dtype=np.float32),
        'cnn_features': [generator.random(shape, dtype=np.float32) for shape in MAP_SHAPES],
        'only_ap_brake': frame == BRAKE_FRAME,
    }


def points_of(frame: int) -> np.ndarray:
    generator = np.random.default_rng(1000 + frame)
    return generator.uniform(-10, 10, (20 + frame, 4)).astype(np.float32)


def write_frame(route: Path, frame: int) -> None:
    generator = np.random.default_rng(2000 + frame)
    name = f'{frame:04d}'
    for camera in CAMERAS:
        _write_png(route / f'rgb_{camera}' / f'{name}.png', generator.integers(0, 255, (*SIZE, 3)))
        depth = np.zeros((*SIZE, 3))
        depth[..., 1] = 5 + frame  # blue and red zero: about 0.076 m a step
        _write_png(route / f'depth_{camera}' / f'{name}.png', depth)
        _write_png(route / f'seg_{camera}' / f'{name}.png', generator.choice([1, 7, 10], SIZE))
    for folder in ('lidar', 'measurements', 'supervision'):
        (route / folder).mkdir(parents=True, exist_ok=True)
    np.save(route / 'lidar' / f'{name}.npy', points_of(frame))
    np.save(route / 'supervision' / f'{name}.npy', np.array(supervision_of(frame), dtype=object))
    (route / 'measurements' / f'{name}.json').write_text(json.dumps(measurements_of(frame)))


def change_measurements(root: Path, name: str, frame: int, **changes: Any) -> None:
    path = root / name / 'measurements' / f'{frame:04d}.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def calibration() -> dict[str, Any]:
    height, width = SIZE
    intrinsics = [width / 2, width / 2, (width - 1) / 2, (height - 1) / 2]
    cam2ego = [[0, 0, 1, 1.5], [1, 0, 0, 0], [0, -1, 0, 2.5], [0, 0, 0, 1]]
    return {
        'schema_version': 1,
        'frame_interval': FRAME_INTERVAL,
        'image_size': [height, width],
        'gnss': {'north_per_degree': 111324.60662786, 'east_per_degree': 111319.490945},
        'cameras': [
            {
                'name': camera,
                'rgb': f'rgb_{camera}',
                'depth': f'depth_{camera}',
                'seg': f'seg_{camera}',
                'raw_intrinsics': intrinsics,
                'distortion': [0, 0, 0, 0, 0],
                'intrinsics': intrinsics,
                'cam2ego': cam2ego,
                'depth_offset': 0.0,
            }
            for camera in CAMERAS
        ],
        'lidar': {'height': 2.5},
        'bev': {'x': [-8, 30.4], 'y': [-19.2, 19.2]},
    }


class NoisyCameras:
    """Stands in for the image step: tiny images drawn from the sample's own generator."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        frames, cameras, rng = len(results['frames']), len(CAMERAS), results['rng']
        results['img'] = rng.integers(0, 255, (frames, cameras, 3, 4, 6)).astype(np.uint8)
        results['intrinsics'] = np.tile(np.eye(3, dtype=np.float32), (frames, cameras, 1, 1))
        for key in ('cam2ego', 'ida_mats'):
            results[key] = np.tile(np.eye(4, dtype=np.float32), (frames, cameras, 1, 1))
        return results


def pipeline() -> list[Any]:
    names = (
        'LoadMeasurements',
        'LoadPoints',
        NoisyCameras(),
        'LoadWaypoints',
        'LoadSupervision',
        'PackSample',
    )
    return [{'type': name} if isinstance(name, str) else name for name in names]


def equal(first: Any, second: Any) -> bool:
    """Whether two samples or batches hold the same numbers."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image.astype(np.uint8)
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
