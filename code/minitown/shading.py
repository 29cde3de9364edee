"""Colours of cast pixels: surface patterns, sun, haze and sky.

A pixel's class and depth come from the caster; this module only paints, so the
colour image agrees with both by construction.
"""

import math

import numpy as np
from numba import njit

from thinktwice.minitown.classes import GREEN, RED, YELLOW
from thinktwice.minitown.primitives import (
    BOX,
    CAR_BODY,
    CAR_CABIN,
    CLOTHES,
    CYLINDER,
    FACADE,
    FOLIAGE,
    LIGHT_HEAD,
    SIGN_PLATE,
)
from thinktwice.minitown.raycast import GROUND, NOTHING

LAMP_COLOURS = np.array([(20.0, 236.0, 140.0), (245.0, 200.0, 30.0), (255.0, 20.0, 60.0)])
"""RGB of a lit lamp by state: hues 76, 24 and 175 of OpenCV's 0..179."""


@njit(cache=True)
def _noise(x: int, y: int, z: int) -> float:
    """Repeatable value in [0, 1) for a lattice point."""
    value = np.uint32(x) * np.uint32(73856093) ^ np.uint32(y) * np.uint32(19349663)
    value ^= np.uint32(z) * np.uint32(83492791)
    value ^= value >> np.uint32(13)
    value *= np.uint32(1274126177)
    value ^= value >> np.uint32(16)
    return (value & np.uint32(0xFFFF)) / 65536.0


@njit(cache=True)
def _surface(local, shape, kind: int, normal) -> None:  # type: ignore[no-untyped-def]
    """Write the outward unit normal (3,), in the shape's own axes, at a point given in them."""
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
def _pattern(texture: int, state: int, local, shape, normal, lamps, colour) -> bool:  # type: ignore[no-untyped-def]
    """Change `colour` (3,) by the surface's pattern; return whether the spot shines by itself."""
    across = local[1] if abs(normal[0]) > 0.5 else local[0]
    if texture == FACADE and abs(normal[2]) < 0.5:
        height = local[2] + shape[5]
        column, storey = math.floor(across / 2.4), math.floor(height / 3.0)
        inside_x, inside_z = across / 2.4 - column, height / 3.0 - storey
        if 0.25 < inside_x < 0.75 and 0.3 < inside_z < 0.8:
            lit = _noise(int(column), int(storey), int(shape[5] * 977))
            for index in range(3):
                colour[index] = 50.0 + 45.0 * lit + 12.0 * index
    elif texture == FOLIAGE:
        grain = 0.65 + 0.6 * _noise(int(local[0] * 5), int(local[1] * 5), int(local[2] * 5 + 997))
        for index in range(3):
            colour[index] *= grain
    elif texture == CAR_BODY:
        if abs(local[2]) < 0.5 * shape[5] and abs(local[1]) > 0.55 * shape[4]:
            if normal[0] > 0.5:
                colour[0], colour[1], colour[2] = 235.0, 235.0, 215.0
            elif normal[0] < -0.5:
                colour[0], colour[1], colour[2] = (255.0 if state else 130.0), 25.0, 25.0
                return state != 0
        elif local[2] < -0.6 * shape[5]:
            for index in range(3):
                colour[index] *= 0.3
    elif texture == CAR_CABIN and abs(normal[2]) < 0.5 and local[2] < 0.75 * shape[5]:
        colour[0], colour[1], colour[2] = 38.0, 46.0, 56.0
    elif texture == LIGHT_HEAD and normal[0] > 0.5:
        slot = local[2] / shape[5] * 1.5
        lamp = YELLOW if abs(slot) < 0.5 else (RED if slot > 0 else GREEN)
        centre = 1.0 if lamp == RED else (0.0 if lamp == YELLOW else -1.0)
        if lamp == state and abs(slot - centre) < 0.44 and abs(local[1]) < 0.85 * shape[4]:
            for index in range(3):
                colour[index] = lamps[state, index]
            return True
    elif texture == SIGN_PLATE and normal[0] > 0.5:
        rim = max(abs(local[1]) / shape[4], abs(local[2]) / shape[5])
        if rim < 0.72:
            for index in range(3):
                colour[index] = 235.0
            if rim < 0.4 and (abs(local[2]) < 0.2 * shape[5] or abs(local[1]) < 0.2 * shape[4]):
                for index in range(3):
                    colour[index] = 35.0
    elif texture == CLOTHES and local[2] < 0.0:
        for index in range(3):
            colour[index] *= 0.45
    return False


@njit(cache=True)
def shade_image(  # type: ignore[no-untyped-def]
    rays,
    origin,
    depth,
    owner,
    shapes,
    kinds,
    colours,
    textures,
    states,
    classes,
    ground,
    ego2ground,
    ground_classes,
    ground_colours,
    sun,
    light,
    lamps,
    image,
    labels,
):
    """Fill `image` (H, W, 3) uint8 RGB and `labels` (H, W) uint8 from the cast pixels.

    Args:
        rays: (H, W, 3), with the next four as in `raycast.cast_image`.
        origin: (3,) camera position.
        depth: (H, W) metres.
        owner: (H, W) shape indices.
        shapes: (P, 8) geometry table.
        kinds: (P,) column of the shapes, as the next four.
        colours: (P, 3) RGB.
        textures: (P,).
        states: (P,).
        classes: (P,).
        ground: (R, C) uint8 ground codes.
        ego2ground: (2, 3), maps ego (x, y, 1) to (column, row).
        ground_classes: class by ground code.
        ground_colours: RGB by ground code.
        sun: (3,) unit vector towards the sun in the ego frame.
        light: ambient share, sun share, haze per metre, haze R, G, B, sky R, G, B.
        lamps: (3, 3) RGB of lit lamps by state.
        image: output.
        labels: output.
    """
    height, width = depth.shape
    colour, local, normal, point = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for v in range(height):
        for u in range(width):
            index = owner[v, u]
            length = 0.0
            for axis in range(3):
                point[axis] = origin[axis] + depth[v, u] * rays[v, u, axis]
                length += rays[v, u, axis] ** 2
            length = math.sqrt(length)
            if index == NOTHING:
                labels[v, u] = 13
                rise = max(0.0, rays[v, u, 2] / length)
                for channel in range(3):
                    mixed = light[3 + channel] + (light[6 + channel] - light[3 + channel]) * min(
                        1.0, 1.8 * rise
                    )
                    image[v, u, channel] = np.uint8(mixed)
                continue
            shines = False
            if index == GROUND:
                column = ego2ground[0, 0] * point[0] + ego2ground[0, 1] * point[1] + ego2ground[0, 2]
                row = ego2ground[1, 0] * point[0] + ego2ground[1, 1] * point[1] + ego2ground[1, 2]
                i, j = int(math.floor(row + 0.5)), int(math.floor(column + 0.5))
                code = 0
                if 0 <= i < ground.shape[0] and 0 <= j < ground.shape[1]:
                    code = ground[i, j]
                labels[v, u] = ground_classes[code]
                # Grain fades with distance, where a pixel covers many grains.
                grain = 0.16 / (1.0 + depth[v, u] * length * 0.12)
                bright = light[0] + light[1] * max(0.0, sun[2])
                bright *= 1.0 + grain * (2 * _noise(i // 2, j // 2, 7) - 1)
                for channel in range(3):
                    colour[channel] = ground_colours[code, channel]
            else:
                labels[v, u] = classes[index]
                shape = shapes[index]
                x, y = point[0] - shape[0], point[1] - shape[1]
                local[0] = shape[6] * x + shape[7] * y
                local[1] = -shape[7] * x + shape[6] * y
                local[2] = point[2] - shape[2]
                _surface(local, shape, kinds[index], normal)
                for channel in range(3):
                    colour[channel] = colours[index, channel]
                shines = _pattern(textures[index], states[index], local, shape, normal, lamps, colour)
                facing = (
                    (shape[6] * normal[0] - shape[7] * normal[1]) * sun[0]
                    + (shape[7] * normal[0] + shape[6] * normal[1]) * sun[1]
                    + normal[2] * sun[2]
                )
                bright = light[0] + light[1] * max(0.0, facing)
            haze = 0.0
            if shines:
                bright = 1.0
            else:
                haze = 1.0 - math.exp(-light[2] * depth[v, u] * length)
            for channel in range(3):
                value = colour[channel] * bright
                value += (light[3 + channel] - value) * haze
                image[v, u, channel] = np.uint8(min(255.0, max(0.0, value)))
