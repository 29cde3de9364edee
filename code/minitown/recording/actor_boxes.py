"""Records of the actors near the ego (``3d_bbs``)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.traffic.actor_shapes import PERSON_HALF
from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF
from thinktwice.minitown.world.scenery import LIGHT_HALF, LIGHT_HEIGHT

REACH = 50.0


@dataclass(frozen=True)
class _Actor:
    """Name, kind, world pose (x, y, yaw), height of the bottom and half extents in meters, and motion."""

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


def _pose_matrix(x: float, y: float, z: float, yaw: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[:3, 3] = (x, y, z)
    return matrix


def _actors(drive: Drive) -> list[_Actor]:
    """All actors of a drive, the ego first."""
    ego = drive.ego
    actors = [_Actor('ego', 'ego', ego.pose, EGO_HALF, 0.0, ego.speed, float(ego.acceleration < -0.6))]
    for car in drive.traffic.vehicles[1:]:
        brake = float(car.is_braking)
        actors.append(_Actor(f'vehicle{car.index}', 'vehicle', car.pose, car.half, 0.0, car.speed, brake))
    for person in drive.crowd.people:
        actors.append(_Actor(f'walker{person.index}', 'walker', person.pose, PERSON_HALF, 0.0, person.speed))
    for number, head in enumerate(drive.town.light_heads):
        x, y, _ = drive.town.shapes.center[head.shape]
        pose = (float(x), float(y), float(drive.town.shapes.yaw[head.shape]))
        bottom = LIGHT_HEIGHT - LIGHT_HALF[2]
        actors.append(_Actor(f'traffic_light{number}', 'traffic_light', pose, LIGHT_HALF, bottom))
    return actors


def nearby_actors(drive: Drive, points: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the actors within 50 m by name, the ego first.

    Args:
        drive: at a recorded step.
        points: (P, 4) LiDAR points of the frame in the ego frame.
    """
    ego_x, ego_y, ego_yaw = drive.ego.pose
    world2ego = np.linalg.inv(_pose_matrix(ego_x, ego_y, 0.0, ego_yaw))
    records: dict[str, dict[str, Any]] = {}
    boxes = []
    for identity, actor in enumerate(_actors(drive)):
        x, y, yaw = actor.pose
        distance = math.hypot(x - ego_x, y - ego_y)
        if distance > REACH:
            continue
        matrix = _pose_matrix(x, y, actor.bottom, yaw)
        position = (world2ego @ matrix)[:3, 3]
        turn = (yaw - ego_yaw + math.pi) % (2 * math.pi) - math.pi
        boxes.append((position[0], position[1], actor.bottom + actor.half[2], *actor.half, turn))
        records[actor.name] = {
            'class': actor.kind,
            'extent': [2 * value for value in actor.half],
            'relative_position': position.tolist(),
            'relative_rotation': [0.0, 0.0, turn],
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
    records['ego']['yaw'] = ego_yaw
    return records
