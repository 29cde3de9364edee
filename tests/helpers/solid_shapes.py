"""Random scenes of solid shapes, and where their surfaces are, by formulas other than the ray caster's."""

import numpy as np

from thinktwice.minitown import BOX, CYLINDER, PrimitiveBuilder, PrimitiveSet


def unproject(depth, intrinsics, cam2ego):
    """Ego points of all pixels, by the pinhole model."""
    fx, fy, cx, cy = intrinsics
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    camera = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth, np.ones_like(depth)], axis=-1)
    return (camera @ np.asarray(cam2ego).T)[..., :3]


def surface_distance(points, kind, center, half, yaw):
    """How far points (N, 3) are from a shape's surface along its own axes; negative inside."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    offset = points - center
    x, y = cos * offset[:, 0] + sin * offset[:, 1], -sin * offset[:, 0] + cos * offset[:, 1]
    z = offset[:, 2]
    if kind == BOX:
        return np.max(np.abs(np.stack([x, y, z], axis=1)) - half, axis=1)
    if kind == CYLINDER:
        return np.maximum(np.hypot(x, y) - half[0], np.abs(z) - half[2])
    return (np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2) - 1) * min(half)


def random_shapes(seed: int) -> PrimitiveSet:
    rng = np.random.default_rng(seed)
    builder = PrimitiveBuilder()
    for number in range(40):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(8, 60)
        half = tuple(rng.uniform(0.3, 4, 3))
        center = (far * np.cos(angle), far * np.sin(angle), rng.uniform(0, 5))
        yaw = 0.0 if number % 3 == CYLINDER else rng.uniform(-3, 3)
        builder.add(number % 3, center, half, 30 + number % 3, (200, 100, 50), yaw)
    return builder.build()


def shape_in_ego(shapes: PrimitiveSet, index: int, pose):
    """Kind, ego center, half extents and ego yaw of one shape."""
    x, y, yaw = pose
    matrix = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    center = np.append(matrix @ (shapes.center[index, :2] - (x, y)), shapes.center[index, 2])
    return shapes.kind[index], center, shapes.half[index], shapes.yaw[index] - yaw
