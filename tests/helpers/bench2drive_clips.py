"""Clips of Bench2Drive made from the embedded town: the tree, files and traps of the real ones, small images.

What a clip was made from is kept beside it, for comparison. Radar and instance images are left out: no
reader needs them.
"""

import gzip
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import laspy
import numpy as np

from thinktwice.geometry.poses import ego_to_world, pose_matrix
from thinktwice.minitown.drive import Drive
from thinktwice.minitown.sensors.cameras import Camera, CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.sensor_suite import Sensors
from thinktwice.minitown.traffic.ego_dynamics import Control

CLIP = 'Accident_Town01_Route7_Weather0'
VAL_CLIP = 'HardBreakRoute_Town01_Route32_Weather6'
SIZE = (90, 160)
# x, y, z, yaw in degrees, horizontal field of view in degrees
RIG = {
    'front': (0.80, 0.00, 1.60, 0, 70),
    'front_left': (0.27, -0.55, 1.60, -55, 70),
    'front_right': (0.27, 0.55, 1.60, 55, 70),
    'back': (-2.00, 0.00, 1.60, 180, 110),
    'back_left': (-0.32, -0.55, 1.60, -110, 70),
    'back_right': (-0.32, 0.55, 1.60, 110, 70),
}
# from the ids of CARLA 0.9.10 to those of 0.9.15, for what the town holds
OLD_TO_NEW = {0: 0, 1: 3, 2: 5, 4: 12, 5: 6, 6: 24, 7: 1, 8: 2, 9: 9, 10: 14, 12: 8, 13: 11, 18: 7, 22: 10}
ACTIONS = [
    (0.0, 0.0, 1.0, False),
    *((0.7, s, 0.0, False) for s in (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)),
    *((0.3, s, 0.0, False) for s in (-0.7, -0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7)),
    *((0.0, s, 0.0, False) for s in (-1.0, -0.6, -0.3, -0.1)),
    (1.0, 0.0, 0.0, False),
    *((0.0, s, 0.0, False) for s in (0.1, 0.3, 0.6, 1.0)),
    *((0.5, s, 0.0, True) for s in (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)),
]
FORWARD_ACTIONS = 30
TRAP_FRAME = 5  # has no heading and no speed
GNSS_NOISE, GNSS_X = 0.557, -1.4  # m


@dataclass
class Frame:
    """What one frame of a clip was made from."""

    pose: tuple[float, float, float]  # world x, y, yaw
    speed: float
    measured: dict[str, Any]
    points: np.ndarray
    rgb: dict[str, np.ndarray]
    depth: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]
    control: tuple[float, float, float, bool] = (0.0, 0.0, 0.0, False)  # that led to this frame


@dataclass
class Clip:
    """A clip on disk and what it was made from."""

    path: Path
    frames: list[Frame] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)  # at frame i the one that leads to frame i + 1


def write_clip(
    root: Path, frames: int, name: str = CLIP, nesting: str = '', size: tuple[int, int] = SIZE, seed: int = 2
) -> Clip:
    """Drive through the town at 10 Hz with the expert's discrete actions, and write a clip below a root."""
    clip = Clip(root / nesting / name)
    drive, sensors = Drive('town01_00', seed, seconds=0.1 * frames + 10), _sensors(size)
    rng = np.random.default_rng(seed)
    control = (0.0, 0.0, 0.0, False)
    for frame in range(frames):
        clip.frames.append(_observe(drive, sensors, control))
        _write_frame(clip, frame, rng, size)
        wanted = drive.decision.control
        # brake, steer and throttle count alike: a discrete action that is close is good enough
        distance = [
            abs(t - wanted.throttle) + abs(s - wanted.steer) + abs(b - wanted.brake)
            for t, s, b, _ in ACTIONS[:FORWARD_ACTIONS]
        ]
        clip.actions.append(int(np.argmin(distance)))
        control = ACTIONS[clip.actions[-1]]
        for _ in range(2):
            drive.step(Control(throttle=control[0], steer=control[1], brake=control[2]))
    return clip


def _sensors(size: tuple[int, int]) -> list[Sensors]:
    """The cameras of each field of view, with a LiDAR."""
    groups: dict[int, list[Camera]] = {}
    for name, (x, y, z, yaw, fov) in RIG.items():
        groups.setdefault(fov, []).append(Camera(name, (x, y, z), math.radians(yaw)))
    lidar = Lidar(columns=240)
    return [Sensors(CameraRig(size, fov, tuple(cameras)), lidar) for fov, cameras in groups.items()]


def _observe(drive: Drive, sensors: list[Sensors], control: tuple[float, float, float, bool]) -> Frame:
    ego = drive.ego
    frame = Frame(ego.pose, ego.speed, drive.measurements(), np.empty(0), {}, {}, {}, control)
    for group in sensors:
        seen = group.observe(drive.scene(), ego.pose)
        frame.points = seen.points
        for camera, view in zip(group.rig.cameras, seen.views, strict=True):
            frame.depth[camera.name], frame.classes[camera.name] = view.depth, view.classes
            frame.rgb[camera.name] = view.rgb
    return frame


def _write_frame(clip: Clip, number: int, rng: np.random.Generator, size: tuple[int, int]) -> None:
    frame, name = clip.frames[number], f'{number:05d}'
    to_new = np.zeros(256, np.uint8)
    to_new[list(OLD_TO_NEW)] = list(OLD_TO_NEW.values())
    for view in RIG:
        rgb, depth = frame.rgb[view], np.minimum(np.rint(frame.depth[view]), 255)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 20]
        _write_image(clip.path / f'camera/rgb_{view}/{name}.jpg', rgb[..., ::-1], quality)
        _write_image(clip.path / f'camera/depth_{view}/{name}.png', depth)
        _write_image(clip.path / f'camera/semantic_{view}/{name}.png', to_new[frame.classes[view]])
    write_laz(clip.path / f'lidar/{name}.laz', frame.points[:, :3])
    write_annotation(clip.path / f'anno/{name}.json.gz', annotation(frame, number, rng, size))
    # the file of frame i is written at frame i + 1, and the first is named -0001
    clip.features.append(np.abs(rng.normal(size=1536)).astype(np.float32))
    if number:
        vector = np.array([*clip.features[number - 1], number / 10, clip.actions[number - 1]], np.float32)
    else:
        vector = np.zeros(1538, np.float32)
    expert = clip.path / 'expert_assessment' / (f'{number - 1:05d}.npz' if number else '-0001.npz')
    expert.parent.mkdir(parents=True, exist_ok=True)
    np.savez(expert, vector)


def write_laz(path: Path, xyz: np.ndarray) -> None:
    """Write points as the recorder does: point format 0, millimeters, intensity untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = laspy.LasHeader(point_format=0, version='1.2')
    head.scales, head.offsets = np.full(3, 0.001), xyz.min(axis=0)
    cloud = laspy.LasData(head)
    cloud.x, cloud.y, cloud.z = xyz.astype(np.float64).T
    cloud.write(str(path))


def write_annotation(path: Path, values: dict[str, Any]) -> None:
    """Write an ``anno`` file: gzipped, indented JSON with bare NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(values, indent=4).encode()))


def read_annotation(path: Path) -> dict[str, Any]:
    """Read an ``anno`` file with the standard library."""
    values: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return values


def annotation(frame: Frame, number: int, rng: np.random.Generator, size: tuple[int, int]) -> dict[str, Any]:
    """The 24 keys of a frame."""
    x, y, yaw = frame.pose
    measured, (throttle, steer, brake, reverse) = frame.measured, frame.control
    gnss = ego_to_world([[GNSS_X, 0.0]], frame.pose)[0] + rng.normal(0.0, GNSS_NOISE, 2)
    is_trap = number == TRAP_FRAME
    box = {
        'class': 'ego_vehicle',
        'id': '17',
        'type_id': 'vehicle.lincoln.mkz_2020',
        'base_type': 'car',
        'location': [x, y, 0.0],
        'rotation': [0.0, 0.0, math.degrees(yaw)],  # pitch, roll, yaw
        'bbx_loc': [0.0, 0.0, 0.7],
        'center': [x, y, 0.7],
        'extent': [2.4, 1.0, 0.7],
        'world_cord': [],
        'semantic_tags': [[14]],
        'color': '0,0,0',
        'speed': frame.speed,
        'brake': brake,
        'road_id': 1,
        'lane_id': 1,
        'section_id': 0,
        'world2ego': np.linalg.inv(pose_matrix(frame.pose)).tolist(),
    }
    other = {'class': 'vehicle', 'state': 'dynamic', 'id': '18', 'location': [x + 5, y, 0], 'brake': math.nan}
    nodes = {key: measured[key] for key in ('command_near', 'command_far')}
    for place in ('command_near', 'command_far', 'target'):
        nodes[f'x_{place}'], nodes[f'y_{place}'] = measured[f'y_{place}'], -measured[f'x_{place}']
    return {
        'x': gnss[0],
        'y': gnss[1],
        'throttle': throttle,
        'steer': steer,
        'brake': brake,
        'reverse': reverse,
        'theta': math.nan if is_trap else (yaw + math.pi / 2) % (2 * math.pi),
        'speed': None if is_trap else frame.speed,
        **nodes,
        'next_command': measured['target_command'],
        'should_brake': None if is_trap else bool(measured['should_brake']),
        'only_ap_brake': 0,
        'acceleration': measured['acceleration'],
        'angular_velocity': measured['angular_velocity'],
        'weather': measured['weather'],
        'bounding_boxes': [box, other],
        'sensors': _sensor_entries(frame.pose, size),
    }


def _sensor_entries(pose: tuple[float, float, float], size: tuple[int, int]) -> dict[str, Any]:
    ego2world = pose_matrix(pose)
    height, width = size
    entries: dict[str, Any] = {}
    for view, (x, y, z, yaw, fov) in RIG.items():
        cam2ego = pose_matrix((x, y, math.radians(yaw)), z)
        focal = width / 2 / math.tan(math.radians(fov) / 2)
        cam2world = ego2world @ cam2ego
        entries[f'CAM_{view.upper()}'] = {
            'location': cam2world[:3, 3].tolist(),
            'rotation': [0.0, 0.0, math.degrees(pose[2]) + yaw],
            'intrinsic': [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]],
            'world2cam': np.linalg.inv(cam2world).tolist(),
            'cam2ego': cam2ego.tolist(),  # axes x forward, y right, z up
            'fov': float(fov),
            'image_size_x': width,
            'image_size_y': height,
        }
    lidar2ego = pose_matrix((-0.39, 0.0, 0.0), 1.84)
    entries['LIDAR_TOP'] = {
        'lidar2ego': lidar2ego.tolist(),
        'world2lidar': np.linalg.inv(ego2world @ lidar2ego).tolist(),
    }
    return entries


def _write_image(path: Path, image: np.ndarray, options: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image.astype(np.uint8), options or [])
