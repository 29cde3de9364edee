"""Draws the ground map of a town: asphalt, sidewalks, lane markings, stop lines, crosswalks."""

import math

import cv2
import numpy as np

from thinktwice.minitown.world.classes import (
    GROUND_BROKEN_LINE,
    GROUND_CROSSING,
    GROUND_ROAD,
    GROUND_SIDEWALK,
    GROUND_SOLID_LINE,
    GROUND_TERRAIN,
)
from thinktwice.minitown.world.lanes import LANE_WIDTH, direction
from thinktwice.minitown.world.layout import JUNCTION_REACH, ROAD_HALF, SIDEWALK_HALF, Layout
from thinktwice.minitown.world.scene import GroundMap

CELL = 0.1
"""Edge length of a cell of the ground map, meters."""
MARGIN = 20.0
LINE_WIDTH = 0.2
DASH = 3.0
CROSSING_HALF = 1.6
_SHIFT_BITS = 6


class _Canvas:
    """Fills polygons, given in meters in the grid frame."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low = low
        columns, rows = np.ceil((high - low) / CELL).astype(int)
        self.codes = np.full((rows, columns), GROUND_TERRAIN, dtype=np.uint8)

    def polygon(self, points: np.ndarray, code: int) -> None:
        """Fill a polygon (N, 2)."""
        cells = ((np.asarray(points) - self.low) / CELL - 0.5) * (1 << _SHIFT_BITS)
        cv2.fillPoly(self.codes, [np.round(cells).astype(np.int32)], code, shift=_SHIFT_BITS)

    def strip(
        self,
        start: np.ndarray,
        quarter: int,
        span: tuple[float, float],
        sides: tuple[float, float],
        code: int,
    ) -> None:
        """Fill a rectangle: `span` meters ahead of `start`, `sides` meters to its right."""
        ahead, right = direction(quarter), direction(quarter + 1)
        corners = [(span[0], sides[0]), (span[1], sides[0]), (span[1], sides[1]), (span[0], sides[1])]
        self.polygon(np.array([start + a * ahead + r * right for a, r in corners]), code)

    def ring(self, center: np.ndarray, quarter: int, inner: float, outer: float, code: int) -> None:
        """Fill the part of a ring in the quadrant from `quarter` to `quarter + 1`."""
        angle = np.linspace(0, math.pi / 2, 25) + quarter * math.pi / 2
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        self.polygon(np.concatenate([center + outer * unit, (center + max(inner, 0.0) * unit)[::-1]]), code)


def _draw_bend(canvas: _Canvas, center: np.ndarray, quarter: int) -> None:
    """Draw a bend whose arms point to `quarter` and `quarter + 1`."""
    pivot = center + JUNCTION_REACH * (direction(quarter) + direction(quarter + 1))
    facing = quarter + 2
    reach = JUNCTION_REACH
    canvas.ring(pivot, facing, reach - SIDEWALK_HALF, reach + SIDEWALK_HALF, GROUND_SIDEWALK)
    canvas.ring(pivot, facing, reach - ROAD_HALF, reach + ROAD_HALF, GROUND_ROAD)
    for offset in (-LANE_WIDTH, LANE_WIDTH):
        canvas.ring(
            pivot, facing, reach + offset - LINE_WIDTH / 2, reach + offset + LINE_WIDTH / 2, GROUND_SOLID_LINE
        )
    canvas.ring(pivot, facing, reach - LINE_WIDTH / 2, reach + LINE_WIDTH / 2, GROUND_SOLID_LINE)


def _draw_junction(canvas: _Canvas, center: np.ndarray, arms: set[int], half: float, code: int) -> None:
    """Draw the arms of a junction, `half` wide to each side, up to the stop lines; corners are rounded."""
    for quarter in arms:
        canvas.strip(center, quarter, (-half, JUNCTION_REACH), (-half, half), code)
    angle = np.linspace(0, math.pi / 2, 25)
    radius = JUNCTION_REACH - half
    for quarter in arms:
        if (quarter + 1) % 4 not in arms:
            continue
        ahead, right = direction(quarter), direction(quarter + 1)
        pivot = center + JUNCTION_REACH * (ahead + right)
        arc = pivot - radius * (np.sin(angle)[:, None] * ahead + np.cos(angle)[:, None] * right)
        canvas.polygon(np.concatenate([center[None], arc]), code)


def _draw_markings(canvas: _Canvas, layout: Layout) -> None:
    """Draw lane lines, stop lines and crosswalks of all streets."""
    half = LINE_WIDTH / 2
    for place, (first, second, quarter) in enumerate(layout.streets):
        start = layout.junctions[first].center + JUNCTION_REACH * direction(quarter)
        length = float(np.linalg.norm(layout.junctions[second].center - layout.junctions[first].center))
        length -= 2 * JUNCTION_REACH
        for side in (-LANE_WIDTH, LANE_WIDTH):
            canvas.strip(start, quarter, (0, length), (side - half, side + half), GROUND_SOLID_LINE)
        for begin in np.arange(0.0, length, 2 * DASH):
            canvas.strip(
                start, quarter, (begin, min(begin + DASH, length)), (-half, half), GROUND_BROKEN_LINE
            )
        if layout.junctions[second].has_lights:
            canvas.strip(start, quarter, (length - 0.8, length - 0.3), (0.1, LANE_WIDTH), GROUND_CROSSING)
        if layout.junctions[first].has_lights:
            canvas.strip(start, quarter, (0.3, 0.8), (-LANE_WIDTH, -0.1), GROUND_CROSSING)
        if place in layout.crosswalk_streets:
            middle = (length / 2 - CROSSING_HALF, length / 2 + CROSSING_HALF)
            canvas.strip(start, quarter, middle, (-ROAD_HALF, ROAD_HALF), GROUND_ROAD)
            for side in np.arange(-ROAD_HALF + 0.2, ROAD_HALF - 0.4, 1.0):
                canvas.strip(start, quarter, middle, (side, side + 0.5), GROUND_CROSSING)


def draw_ground(layout: Layout) -> GroundMap:
    """Return the ground map of a town, a grid aligned with the streets."""
    centers = np.array([junction.center for junction in layout.junctions])
    canvas = _Canvas(centers.min(0) - MARGIN, centers.max(0) + MARGIN)
    for half, code in ((SIDEWALK_HALF, GROUND_SIDEWALK), (ROAD_HALF, GROUND_ROAD)):
        for first, second, quarter in layout.streets:
            start = layout.junctions[first].center
            length = float(np.linalg.norm(layout.junctions[second].center - start))
            span = (JUNCTION_REACH - 0.2, length - JUNCTION_REACH + 0.2)
            canvas.strip(start, quarter, span, (-half, half), code)
        for junction in layout.junctions:
            if not junction.is_bend:
                _draw_junction(canvas, junction.center, set(junction.arms), half, code)
    for junction in layout.junctions:
        if junction.is_bend:
            first, second = sorted(junction.arms)
            _draw_bend(canvas, junction.center, first if second - first == 1 else second)
    _draw_markings(canvas, layout)
    return GroundMap(canvas.codes, _world_to_cells(layout, canvas.low))


def _world_to_cells(layout: Layout, low: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix from the world to (column, row) of a map whose corner is grid point `low`."""
    world2grid = layout.grid2world[:, :2].T
    shift = -world2grid @ layout.grid2world[:, 2] - low
    return np.column_stack([world2grid / CELL, shift / CELL - 0.5])
