"""Colors and classes of pixels: surface patterns, sun, haze and sky.

The ray caster decides which surface a pixel shows and at which depth, so color, class and
depth agree by construction.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from thinktwice.minitown.sensors.raycast import GROUND, NOTHING
from thinktwice.minitown.world.classes import GREEN, RED, SKY, YELLOW
from thinktwice.minitown.world.primitives import (
    BOX,
    CLOTHES,
    CYLINDER,
    FACADE,
    FOLIAGE,
    LIGHT_HEAD,
    SIGN_PLATE,
    VEHICLE_BODY,
    VEHICLE_CABIN,
)

LAMP_COLORS = np.array([(20.0, 236.0, 140.0), (245.0, 200.0, 30.0), (255.0, 20.0, 60.0)])
"""RGB of a lit lamp by state: hues 76, 24 and 175 on OpenCV's scale 0..179."""


class Solids(NamedTuple):
    """Geometry table (P, 8) of the shapes in the ego frame, and columns of their `PrimitiveSet`."""

    shapes: np.ndarray
    kinds: np.ndarray
    colors: np.ndarray
    textures: np.ndarray
    states: np.ndarray
    classes: np.ndarray


class Ground(NamedTuple):
    """Codes (R, C), the (2, 3) matrix from ego (x, y, 1) to (column, row), class and RGB of each code."""

    codes: np.ndarray
    ego2grid: np.ndarray
    classes: np.ndarray
    colors: np.ndarray


class Air(NamedTuple):
    """Unit vector (3,) toward the sun in the ego frame, and the values of `scene.Lighting`."""

    sun: np.ndarray
    ambient: float
    direct: float
    haze: float
    haze_color: np.ndarray
    sky_color: np.ndarray


@njit(cache=True)
def _noise(x: int, y: int, z: int) -> float:
    """Hash of a lattice point, a value in [0, 1)."""
    value = np.uint32(x) * np.uint32(73856093) ^ np.uint32(y) * np.uint32(19349663)
    value ^= np.uint32(z) * np.uint32(83492791)
    value ^= value >> np.uint32(13)
    value *= np.uint32(1274126177)
    value ^= value >> np.uint32(16)
    return (value & np.uint32(0xFFFF)) / 65536.0


@njit(cache=True)
def _surface(local, shape, kind: int, normal) -> None:  # type: ignore[no-untyped-def]
    """Write the outward unit normal (3,) at a surface point; both in the shape's own axes."""
    normal[0], normal[1], normal[2] = 0.0, 0.0, 0.0
    if kind == BOX:
        best, axis = -1.0, 0
        for index in range(3):
            share = abs(local[index]) / shape[3 + index]
            if share > best:
                best, axis = share, index
        normal[axis] = 1.0 if local[axis] > 0 else -1.0
        return
    if kind == CYLINDER:
        if abs(local[2]) > shape[5] * (1 - 1e-9):
            normal[2] = 1.0 if local[2] > 0 else -1.0
        else:
            normal[0], normal[1] = local[0] / shape[3], local[1] / shape[3]
        return
    length = 0.0
    for index in range(3):
        normal[index] = local[index] / shape[3 + index] ** 2
        length += normal[index] ** 2
    for index in range(3):
        normal[index] /= math.sqrt(length)


@njit(cache=True)
def _pattern(texture: int, state: int, local, shape, normal, color) -> bool:  # type: ignore[no-untyped-def]
    """Apply the surface's pattern to `color` (3,); return whether the point emits light."""
    across = local[1] if abs(normal[0]) > 0.5 else local[0]
    if texture == FACADE and abs(normal[2]) < 0.5:
        height = local[2] + shape[5]
        column, story = math.floor(across / 2.4), math.floor(height / 3.0)
        inside_x, inside_z = across / 2.4 - column, height / 3.0 - story
        if 0.25 < inside_x < 0.75 and 0.3 < inside_z < 0.8:
            lit = _noise(int(column), int(story), int(shape[5] * 977))
            for index in range(3):
                color[index] = 50.0 + 45.0 * lit + 12.0 * index
    elif texture == FOLIAGE:
        grain = 0.65 + 0.6 * _noise(int(local[0] * 5), int(local[1] * 5), int(local[2] * 5 + 997))
        for index in range(3):
            color[index] *= grain
    elif texture == VEHICLE_BODY:
        if abs(local[2]) < 0.5 * shape[5] and abs(local[1]) > 0.55 * shape[4]:
            if normal[0] > 0.5:
                color[0], color[1], color[2] = 235.0, 235.0, 215.0
            elif normal[0] < -0.5:
                color[0], color[1], color[2] = (255.0 if state else 130.0), 25.0, 25.0
                return state != 0
        elif local[2] < -0.6 * shape[5]:
            for index in range(3):
                color[index] *= 0.3
    elif texture == VEHICLE_CABIN and abs(normal[2]) < 0.5 and local[2] < 0.75 * shape[5]:
        color[0], color[1], color[2] = 38.0, 46.0, 56.0
    elif texture == LIGHT_HEAD and normal[0] > 0.5:
        slot = local[2] / shape[5] * 1.5
        lamp = YELLOW if abs(slot) < 0.5 else (RED if slot > 0 else GREEN)
        center = 1.0 if lamp == RED else (0.0 if lamp == YELLOW else -1.0)
        if lamp == state and abs(slot - center) < 0.44 and abs(local[1]) < 0.85 * shape[4]:
            for index in range(3):
                color[index] = LAMP_COLORS[state, index]
            return True
    elif texture == SIGN_PLATE and normal[0] > 0.5:
        rim = max(abs(local[1]) / shape[4], abs(local[2]) / shape[5])
        if rim < 0.72:
            for index in range(3):
                color[index] = 235.0
            if rim < 0.4 and (abs(local[2]) < 0.2 * shape[5] or abs(local[1]) < 0.2 * shape[4]):
                for index in range(3):
                    color[index] = 35.0
    elif texture == CLOTHES and local[2] < 0.0:
        for index in range(3):
            color[index] *= 0.45
    return False


@njit(cache=True)
def _blend(color: float, bright: float, haze: float, haze_color: float) -> int:
    """One channel of an illuminated color seen through haze, 0..255."""
    value = color * bright
    value += (haze_color - value) * haze
    return int(min(255.0, max(0.0, value)))


# One pass per kind of surface: a kernel that unpacks the tuples once, before its loops, runs several
# times faster than helpers that receive the tuples for every pixel.
@njit(cache=True)
def shade_sky(rays, owner, air, image, labels) -> None:  # type: ignore[no-untyped-def]
    """Fill the pixels whose rays hit nothing; arguments as in `shade_solids`."""
    haze_color, sky_color = air.haze_color, air.sky_color
    for v in range(owner.shape[0]):
        for u in range(owner.shape[1]):
            if owner[v, u] != NOTHING:
                continue
            labels[v, u] = SKY
            x, y, z = rays[v, u, 0], rays[v, u, 1], rays[v, u, 2]
            share = min(1.0, 1.8 * max(0.0, z / math.sqrt(x * x + y * y + z * z)))
            for channel in range(3):
                change = sky_color[channel] - haze_color[channel]
                image[v, u, channel] = np.uint8(haze_color[channel] + change * share)


@njit(cache=True)
def shade_ground(rays, origin, depth, owner, ground, air, image, labels) -> None:  # type: ignore[no-untyped-def]
    """Fill the pixels of the ground plane; arguments as in `shade_solids`, `ground` is a `Ground`."""
    codes, grid, classes, colors = ground.codes, ground.ego2grid, ground.classes, ground.colors
    haze_color = air.haze_color
    lit = air.ambient + air.direct * max(0.0, air.sun[2])
    for v in range(owner.shape[0]):
        for u in range(owner.shape[1]):
            if owner[v, u] != GROUND:
                continue
            dx, dy, dz = rays[v, u, 0] * depth[v, u], rays[v, u, 1] * depth[v, u], rays[v, u, 2] * depth[v, u]
            x, y = origin[0] + dx, origin[1] + dy
            column = int(math.floor(grid[0, 0] * x + grid[0, 1] * y + grid[0, 2] + 0.5))
            row = int(math.floor(grid[1, 0] * x + grid[1, 1] * y + grid[1, 2] + 0.5))
            code = 0
            if 0 <= row < codes.shape[0] and 0 <= column < codes.shape[1]:
                code = codes[row, column]
            labels[v, u] = classes[code]
            distance = math.sqrt(dx * dx + dy * dy + dz * dz)
            # The grain fades with distance, where a pixel covers many grains.
            grain = 0.16 / (1.0 + 0.12 * distance) * (2 * _noise(row // 2, column // 2, 7) - 1)
            haze = 1.0 - math.exp(-air.haze * distance)
            for channel in range(3):
                image[v, u, channel] = _blend(
                    colors[code, channel], lit * (1.0 + grain), haze, haze_color[channel]
                )


@njit(cache=True)
def shade_solids(rays, origin, depth, owner, solids, air, image, labels) -> None:  # type: ignore[no-untyped-def]
    """Fill the pixels of solid shapes.

    Args:
        rays: (H, W, 3), as in `raycast.cast_image`.
        origin: (3,) camera position in the ego frame.
        depth: (H, W) meters, from the ray caster.
        owner: (H, W) shape indices, from the ray caster.
        solids: `Solids`, the shapes given to the ray caster.
        air: `Air`.
        image: (H, W, 3) uint8 RGB output.
        labels: (H, W) uint8 output, semantic classes.
    """
    shapes, kinds, colors, classes = solids.shapes, solids.kinds, solids.colors, solids.classes
    textures, states, sun, haze_color = solids.textures, solids.states, air.sun, air.haze_color
    color, local, normal = np.empty(3), np.empty(3), np.empty(3)
    for v in range(owner.shape[0]):
        for u in range(owner.shape[1]):
            index = owner[v, u]
            if index < 0:
                continue
            labels[v, u] = classes[index]
            shape = shapes[index]
            dx, dy, dz = rays[v, u, 0] * depth[v, u], rays[v, u, 1] * depth[v, u], rays[v, u, 2] * depth[v, u]
            x, y = origin[0] + dx - shape[0], origin[1] + dy - shape[1]
            local[0], local[1] = shape[6] * x + shape[7] * y, -shape[7] * x + shape[6] * y
            local[2] = origin[2] + dz - shape[2]
            _surface(local, shape, kinds[index], normal)
            for channel in range(3):
                color[channel] = colors[index, channel]
            if _pattern(textures[index], states[index], local, shape, normal, color):
                bright, haze = 1.0, 0.0
            else:
                facing = normal[2] * sun[2]
                facing += (shape[6] * normal[0] - shape[7] * normal[1]) * sun[0]
                facing += (shape[7] * normal[0] + shape[6] * normal[1]) * sun[1]
                bright = air.ambient + air.direct * max(0.0, facing)
                haze = 1.0 - math.exp(-air.haze * math.sqrt(dx * dx + dy * dy + dz * dz))
            for channel in range(3):
                image[v, u, channel] = _blend(color[channel], bright, haze, haze_color[channel])
