"""3D boxes of the actors near the ego (``3d_bbs``)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from thinktwice.geometry.poses import pose_matrix, wrap_angle
from thinktwice.minitown.drive import Drive
from thinktwice.minitown.traffic.actor_shapes import PEDESTRIAN_HALF
from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF
from thinktwice.minitown.world.scenery import LIGHT_HALF, LIGHT_HEIGHT

REACH = 50.0


@dataclass(frozen=True)
class _Actor:
    """An actor to record.

    Attributes:
        name: Unique within the frame.
        kind: Class in the record.
        pose: World x, y in meters, yaw in radians.
        half: Half extents in meters.
        bottom: Height of its lowest point above the ground, meters.
        speed: m/s, None for static actors.
        brake: 1 while the brake is on, None for actors without one.
    """

    name: str
    kind: str
    pose: tuple[float, float, float]
    half: tuple[float, float, float]
    bottom: float = 0.0
    speed: float | None = None
    brake: float | None = None


@njit(cache=True)
def count_points(points, boxes):  # type: ignore[no-untyped-def]
    """Count LiDAR points (P, 4) inside boxes (N, 7): center x, y, z, half x, y, z, yaw in the ego frame."""
    counts = np.zeros(len(boxes), dtype=np.int64)
    for index in range(len(boxes)):
        box = boxes[index]
        cos, sin = math.cos(box[6]), math.sin(box[6])
        for point in range(len(points)):
            dx, dy = points[point, 0] - box[0], points[point, 1] - box[1]
            if abs(cos * dx + sin * dy) > box[3] or abs(-sin * dx + cos * dy) > box[4]:
                continue
            if abs(points[point, 2] - box[2]) <= box[5]:
                counts[index] += 1
    return counts


def _actors(drive: Drive) -> list[_Actor]:
    """Return all actors of a drive, the ego first."""
    ego = drive.ego
    actors = [_Actor('ego', 'ego', ego.pose, EGO_HALF, 0.0, ego.speed, float(ego.acceleration < -0.6))]
    for vehicle in drive.traffic.vehicles[1:]:
        name, brake = f'vehicle{vehicle.index}', float(vehicle.is_braking)
        actors.append(_Actor(name, 'vehicle', vehicle.pose, vehicle.half, 0.0, vehicle.speed, brake))
    for pedestrian in drive.crowd.pedestrians:
        name = f'walker{pedestrian.index}'
        actors.append(_Actor(name, 'walker', pedestrian.pose, PEDESTRIAN_HALF, 0.0, pedestrian.speed))
    for number, head in enumerate(drive.town.light_heads):
        x, y, _ = drive.town.shapes.center[head.shape]
        pose = (float(x), float(y), float(drive.town.shapes.yaw[head.shape]))
        bottom = LIGHT_HEIGHT - LIGHT_HALF[2]
        actors.append(_Actor(f'traffic_light{number}', 'traffic_light', pose, LIGHT_HALF, bottom))
    return actors


def nearby_actors(drive: Drive, points: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the records of the actors within 50 m by name, the ego first.

    Args:
        drive: At the step of the frame.
        points: (P, 4) LiDAR points of the frame in the ego frame.
    """
    ego = drive.ego
    world2ego = np.linalg.inv(pose_matrix(ego.pose))
    records: dict[str, dict[str, Any]] = {}
    boxes = []
    for identity, actor in enumerate(_actors(drive)):
        x, y, yaw = actor.pose
        distance = math.hypot(x - ego.x, y - ego.y)
        if distance > REACH:
            continue
        matrix = pose_matrix(actor.pose, actor.bottom)
        position = (world2ego @ matrix)[:3, 3]
        relative_yaw = float(wrap_angle(yaw - ego.yaw))
        boxes.append((position[0], position[1], actor.bottom + actor.half[2], *actor.half, relative_yaw))
        records[actor.name] = {
            'class': actor.kind,
            'extent': [2 * value for value in actor.half],
            'relative_position': position.tolist(),
            'relative_rotation': [0.0, 0.0, relative_yaw],
            'num_points': 0,
            'distance': distance,
            'speed': actor.speed,
            'brake': actor.brake,
            'id': identity,
            'ego_matrix': matrix.tolist(),
            'ego_inv_matrix': np.linalg.inv(matrix).tolist(),
        }
    for record, count in zip(records.values(), count_points(points, np.array(boxes)), strict=True):
        record['num_points'] = int(count)
    records['ego']['yaw'] = ego.yaw
    return records
