"""Ray casting against boxes, upright cylinders, ellipsoids and the ground plane.

Everything is in the ego frame (x forward, y right, z up, meters). The kernels are
compiled once and cached by numba; loops are sequential, so results do not depend on
the number of threads.
"""

import math

import numpy as np
from numba import njit

from thinktwice.minitown.world.primitives import BOX, CYLINDER

GROUND = -1
NOTHING = -2
FAR = 1000.0
"""Depth of the sky, meters."""
NEAR = 0.05


@njit(cache=True)
def _slab(start: float, step: float, half: float) -> tuple[float, float]:
    """Interval of the ray parameter between the planes at +-half."""
    if abs(step) < 1e-12:
        if abs(start) > half:
            return 1e30, -1e30
        return -1e30, 1e30
    first, second = (-half - start) / step, (half - start) / step
    if first > second:
        return second, first
    return first, second


@njit(cache=True)
def _quadratic(a: float, b: float, c: float) -> tuple[float, float]:
    """Interval where a t^2 + 2 b t + c <= 0, empty (low > high) if there is none."""
    if a < 1e-18:
        if c > 0:
            return 1e30, -1e30
        return -1e30, 1e30
    root = b * b - a * c
    if root < 0:
        return 1e30, -1e30
    root = math.sqrt(root)
    return (-b - root) / a, (-b + root) / a


@njit(cache=True)
def hit_distance(origin, direction, shape, kind: int) -> float:  # type: ignore[no-untyped-def]
    """Return the ray parameter where a ray enters a shape, or a negative number.

    Args:
        origin: (3,) start in the ego frame.
        direction: (3,), any length; the result is in multiples of it.
        shape: (8,) row of the geometry table.
        kind: `BOX`, `CYLINDER` or `ELLIPSOID`.
    """
    px, py = origin[0] - shape[0], origin[1] - shape[1]
    cos, sin = shape[6], shape[7]
    ox, oy, oz = cos * px + sin * py, -sin * px + cos * py, origin[2] - shape[2]
    dx = cos * direction[0] + sin * direction[1]
    dy = -sin * direction[0] + cos * direction[1]
    dz = direction[2]
    if kind == BOX:
        low, high = _slab(ox, dx, shape[3])
        second_low, second_high = _slab(oy, dy, shape[4])
        low, high = max(low, second_low), min(high, second_high)
        second_low, second_high = _slab(oz, dz, shape[5])
        low, high = max(low, second_low), min(high, second_high)
    elif kind == CYLINDER:
        low, high = _quadratic(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - shape[3] ** 2)
        second_low, second_high = _slab(oz, dz, shape[5])
        low, high = max(low, second_low), min(high, second_high)
    else:
        ox, oy, oz = ox / shape[3], oy / shape[4], oz / shape[5]
        dx, dy, dz = dx / shape[3], dy / shape[4], dz / shape[5]
        low, high = _quadratic(
            dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz - 1.0
        )
    if low > high or low <= 0.0:
        return -1.0
    return low


@njit(cache=True)
def _corner(shape, index: int):  # type: ignore[no-untyped-def]
    """Corner 0..7 of a shape's bounding box in the ego frame."""
    dx = shape[3] if index & 1 else -shape[3]
    dy = shape[4] if index & 2 else -shape[4]
    dz = shape[5] if index & 4 else -shape[5]
    return (
        shape[0] + shape[6] * dx - shape[7] * dy,
        shape[1] + shape[7] * dx + shape[6] * dy,
        shape[2] + dz,
    )


@njit(cache=True)
def _screen_bounds(shape, ego2cam, intrinsics, height: int, width: int):  # type: ignore[no-untyped-def]
    """Pixel rectangle (left, top, right, bottom; ends excluded) around a shape, empty if not visible."""
    corners = np.empty((8, 3))
    for index in range(8):
        x, y, z = _corner(shape, index)
        for row in range(3):
            corners[index, row] = (
                ego2cam[row, 0] * x + ego2cam[row, 1] * y + ego2cam[row, 2] * z + ego2cam[row, 3]
            )
    left, top, right, bottom = 1e9, 1e9, -1e9, -1e9
    for first in range(8):
        for axis in range(3):
            second = first ^ (1 << axis)
            if corners[first, 2] < NEAR:
                continue
            # The visible part of each edge runs from this corner to the other or to the near plane.
            share = 1.0
            if corners[second, 2] < NEAR:
                share = (corners[first, 2] - NEAR) / (corners[first, 2] - corners[second, 2])
            for part in (0.0, share):
                x = corners[first, 0] + part * (corners[second, 0] - corners[first, 0])
                y = corners[first, 1] + part * (corners[second, 1] - corners[first, 1])
                z = corners[first, 2] + part * (corners[second, 2] - corners[first, 2])
                u, v = intrinsics[0] * x / z + intrinsics[2], intrinsics[1] * y / z + intrinsics[3]
                left, right = min(left, u), max(right, u)
                top, bottom = min(top, v), max(bottom, v)
    return (
        max(0, math.floor(max(left, -1.0))),
        max(0, math.floor(max(top, -1.0))),
        min(width, math.ceil(min(right, width + 1.0)) + 1),
        min(height, math.ceil(min(bottom, height + 1.0)) + 1),
    )


@njit(cache=True)
def cast_image(rays, origin, ego2cam, intrinsics, shapes, kinds, depth, owner):  # type: ignore[no-untyped-def]
    """Fill `depth` and `owner` with the nearest surface at every pixel.

    Args:
        rays: (H, W, 3) directions in the ego frame, length 1 along the optical axis.
        origin: (3,) camera position in the ego frame.
        ego2cam: (4, 4) matrix.
        intrinsics: (4,) fx, fy, cx, cy in pixels.
        shapes: (P, 8) geometry table.
        kinds: (P,) kinds of the shapes.
        depth: (H, W) float64, filled with z-depth in meters, `FAR` for the sky.
        owner: (H, W) int32, filled with the shape's index, `GROUND` or `NOTHING`.
    """
    height, width = depth.shape
    for v in range(height):
        for u in range(width):
            depth[v, u] = FAR
            owner[v, u] = NOTHING
            if rays[v, u, 2] < 0.0:
                distance = -origin[2] / rays[v, u, 2]
                if distance < FAR:
                    depth[v, u] = distance
                    owner[v, u] = GROUND
    for index in range(len(shapes)):
        left, top, right, bottom = _screen_bounds(shapes[index], ego2cam, intrinsics, height, width)
        for v in range(top, bottom):
            for u in range(left, right):
                distance = hit_distance(origin, rays[v, u], shapes[index], kinds[index])
                if 0.0 < distance < depth[v, u]:
                    depth[v, u] = distance
                    owner[v, u] = index


@njit(cache=True)
def _column_span(shape, origin, columns: int):  # type: ignore[no-untyped-def]
    """First index and number of the azimuth columns that can hit a shape."""
    x, y = shape[0] - origin[0], shape[1] - origin[1]
    if math.hypot(x, y) <= math.hypot(shape[3], shape[4]):
        return 0, columns
    middle = math.atan2(y, x)
    low, high = 0.0, 0.0
    for index in range(4):
        corner = _corner(shape, index)
        angle = math.atan2(corner[1] - origin[1], corner[0] - origin[0]) - middle
        angle = (angle + math.pi) % (2 * math.pi) - math.pi
        low, high = min(low, angle), max(high, angle)
    step = 2 * math.pi / columns
    first = math.floor((middle + low) / step)
    return first, min(columns, math.ceil((middle + high) / step) - first + 1)


@njit(cache=True)
def cast_sweep(directions, origin, shapes, kinds, max_range: float, distance, owner):  # type: ignore[no-untyped-def]
    """Fill `distance` (C, A) with ranges of a LiDAR sweep, 0 where nothing is hit.

    Args:
        directions: (C, A, 3) unit vectors in the ego frame; column a points to azimuth 2 pi a / A.
        origin: (3,) sensor position.
        shapes: (P, 8) geometry table.
        kinds: (P,) kinds of the shapes.
        max_range: meters.
        distance: (C, A) float64 output.
        owner: (C, A) int32 output: the shape's index, `GROUND` or `NOTHING`.
    """
    channels, columns = distance.shape
    for channel in range(channels):
        for column in range(columns):
            distance[channel, column] = max_range
            owner[channel, column] = NOTHING
            if directions[channel, column, 2] < 0.0:
                ground = -origin[2] / directions[channel, column, 2]
                if ground < max_range:
                    distance[channel, column] = ground
                    owner[channel, column] = GROUND
    for index in range(len(shapes)):
        first, count = _column_span(shapes[index], origin, columns)
        for offset in range(count):
            column = (first + offset) % columns
            for channel in range(channels):
                reach = hit_distance(origin, directions[channel, column], shapes[index], kinds[index])
                if 0.0 < reach < distance[channel, column]:
                    distance[channel, column] = reach
                    owner[channel, column] = index
    for channel in range(channels):
        for column in range(columns):
            if owner[channel, column] == NOTHING:
                distance[channel, column] = 0.0
