"""Static shapes beside the streets: buildings, trees, fences, street lamps, signs, traffic lights."""

import math
from dataclasses import dataclass

import numpy as np

from thinktwice.minitown.world.classes import BUILDING, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION
from thinktwice.minitown.world.lanes import LANE_OFFSET, direction
from thinktwice.minitown.world.layout import JUNCTION_REACH, SIDEWALK_HALF, Layout
from thinktwice.minitown.world.primitives import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    FACADE,
    FOLIAGE,
    LIGHT_HEAD,
    SIGN_PLATE,
    PrimitiveBuilder,
    PrimitiveSet,
)

CURB = 4.6
"""Distance of lamps and signs from the center line of the street, meters."""
LIGHT_HALF = (0.25, 0.45, 1.05)
LIGHT_HEIGHT = 4.3
WALL_COLORS = (
    (176, 148, 122),
    (150, 92, 76),
    (190, 184, 172),
    (132, 140, 150),
    (206, 190, 150),
    (120, 128, 116),
)
SIGN_COLORS = ((205, 40, 45), (40, 80, 180), (225, 180, 40))


@dataclass(frozen=True)
class LightHead:
    """A traffic light: index of its shape, its junction, and the heading (quarter turns) it applies to."""

    shape: int
    junction: int
    approach: int


class _Placer:
    """Places shapes given in the grid frame on free ground."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self.layout = layout
        self.rng = rng
        self.builder = PrimitiveBuilder()
        self.taken: list[tuple[float, float, float, float]] = []
        for first, second, quarter in layout.streets:
            a, b = layout.junctions[first].center, layout.junctions[second].center
            wide = SIDEWALK_HALF + 0.8
            side = wide * np.abs(direction(quarter + 1)) + JUNCTION_REACH * np.abs(direction(quarter))
            self.taken.append((*(a - side), *(b + side)))

    def claim(self, center: np.ndarray, half: np.ndarray, gap: float = 0.4) -> bool:
        """Reserve a rectangle of ground; returns whether it was free."""
        low, high = center - np.abs(half) - gap, center + np.abs(half) + gap
        for x0, y0, x1, y1 in self.taken:
            if low[0] < x1 and high[0] > x0 and low[1] < y1 and high[1] > y0:
                return False
        self.taken.append((*low, *high))
        return True

    def put(
        self,
        kind: int,
        place: np.ndarray,
        z: float,
        half: tuple[float, float, float],
        class_id: int,
        color: tuple[float, float, float],
        quarter: float = 0.0,
        texture: int = 0,
    ) -> int:
        """Add a shape at grid point `place`, rotated by `quarter` quarter turns; returns its index."""
        x, y = self.layout.to_world(np.asarray(place, dtype=np.float64))
        yaw = self.layout.angle + quarter * math.pi / 2
        return self.builder.add(kind, (x, y, z), half, class_id, color, yaw, texture)

    def tint(self, color: tuple[int, int, int], spread: float = 18.0) -> tuple[float, float, float]:
        """Return the color with Gaussian noise of standard deviation `spread`."""
        red, green, blue = np.clip(np.array(color) + self.rng.normal(0, spread, 3), 10, 245)
        return float(red), float(green), float(blue)

    def tree(self, place: np.ndarray) -> None:
        """Add a tree if its place is free."""
        height, radius = self.rng.uniform(2.2, 3.6), self.rng.uniform(1.2, 2.2)
        if not self.claim(place, np.array([0.8, 0.8])):
            return
        self.put(CYLINDER, place, height / 2, (0.18, 0.18, height / 2), VEGETATION, (92, 70, 52))
        crown = (radius, radius, radius * self.rng.uniform(0.9, 1.4))
        color = self.tint((70, 112, 48), 12.0)
        self.put(ELLIPSOID, place, height + crown[2] * 0.7, crown, VEGETATION, color, texture=FOLIAGE)

    def building(self, start: np.ndarray, quarter: int, side: int, along: float) -> float:
        """Add a house beside the street if its place is free; returns the length of street to advance."""
        width, depth = self.rng.uniform(7, 17), self.rng.uniform(7, 12)
        height = 3.0 * self.rng.integers(1, 6) + 1.0
        away = side * (SIDEWALK_HALF + 1.6 + depth / 2)
        place = start + (along + width / 2) * direction(quarter) + away * direction(quarter + 1)
        half = width / 2 * direction(quarter) + depth / 2 * direction(quarter + 1)
        if not self.claim(place, half):
            return 3.0
        color = self.tint(WALL_COLORS[int(self.rng.integers(len(WALL_COLORS)))])
        size = (width / 2, depth / 2, height / 2)
        self.put(BOX, place, height / 2, size, BUILDING, color, quarter, FACADE)
        if self.rng.random() < 0.5:
            roof = (size[0] * 0.55, size[1] * 0.55, 0.9)
            self.put(BOX, place, height + 0.9, roof, BUILDING, (96, 90, 88), quarter)
        return width + self.rng.uniform(0.8, 5.0)


def _line_street(placer: _Placer, start: np.ndarray, quarter: int, length: float) -> None:
    """Place everything along both sides of one street."""
    rng = placer.rng
    for side in (-1, 1):
        along = 3.0
        while along < length - 6.0:
            if rng.random() < 0.68:
                along += placer.building(start, quarter, side, along)
            else:
                place = start + along * direction(quarter)
                placer.tree(place + side * rng.uniform(8.0, 11.0) * direction(quarter + 1))
                if rng.random() < 0.3:
                    fence = place + 3 * direction(quarter) + side * 7.6 * direction(quarter + 1)
                    if placer.claim(fence, 3 * direction(quarter) + 0.1 * direction(quarter + 1), 0.1):
                        placer.put(BOX, fence, 0.6, (3.0, 0.06, 0.6), FENCE, (140, 118, 90), quarter)
                along += rng.uniform(4.0, 8.0)
        for place_along in np.arange(8.0 + 6.0 * (side > 0), length - 4.0, 24.0):
            place = start + place_along * direction(quarter) + side * CURB * direction(quarter + 1)
            placer.put(CYLINDER, place, 2.75, (0.11, 0.11, 2.75), POLE, (112, 116, 118))
            arm = place - side * 0.7 * direction(quarter + 1)
            placer.put(BOX, arm, 5.45, (0.12, 0.8, 0.09), POLE, (112, 116, 118), quarter)
        # Signs face the traffic on this side.
        heading = quarter if side > 0 else quarter + 2
        for share in rng.uniform(0.1, 0.9, 2):
            place = start + share * length * direction(quarter) + side * CURB * direction(quarter + 1)
            placer.put(CYLINDER, place, 1.2, (0.06, 0.06, 1.2), POLE, (130, 132, 134))
            color = SIGN_COLORS[int(rng.integers(len(SIGN_COLORS)))]
            face = place - 0.1 * direction(heading)
            placer.put(BOX, face, 2.5, (0.04, 0.45, 0.45), TRAFFIC_SIGN, color, heading + 2, SIGN_PLATE)


def _traffic_lights(placer: _Placer) -> list[LightHead]:
    """Add a light on the far side of the junction for each lane that leads to one."""
    heads = []
    for lane in placer.layout.lanes:
        junction = placer.layout.junctions[lane.end]
        if lane.is_connector or not junction.has_lights:
            continue
        goes_on = lane.heading_index in junction.arms
        ahead, right = direction(lane.heading_index), direction(lane.heading_index + 1)
        if goes_on:
            place = junction.center + (JUNCTION_REACH - 1.0) * ahead + CURB * right
        else:
            place = junction.center + CURB * ahead + LANE_OFFSET * right
        placer.put(CYLINDER, place + 0.4 * ahead, 2.7, (0.13, 0.13, 2.7), POLE, (70, 72, 74))
        shape = placer.put(
            BOX,
            place,
            LIGHT_HEIGHT,
            LIGHT_HALF,
            TRAFFIC_LIGHT,
            (34, 36, 36),
            lane.heading_index + 2,
            LIGHT_HEAD,
        )
        heads.append(LightHead(shape, junction.index, lane.heading_index))
    return heads


def build_scenery(layout: Layout) -> tuple[PrimitiveSet, list[LightHead]]:
    """Return the static shapes of a town and its traffic lights, a function of the layout alone."""
    placer = _Placer(layout, np.random.default_rng([20231, layout.number]))
    heads = _traffic_lights(placer)
    for first, second, quarter in layout.streets:
        start = layout.junctions[first].center + JUNCTION_REACH * direction(quarter)
        length = float(np.linalg.norm(layout.junctions[second].center - layout.junctions[first].center))
        _line_street(placer, start, quarter, length - 2 * JUNCTION_REACH)
    centers = np.array([junction.center for junction in layout.junctions])
    low, high = centers.min(0) - 16.0, centers.max(0) + 16.0
    for place in placer.rng.uniform(low, high, (160, 2)):
        placer.tree(place)
    return placer.builder.build(), heads
