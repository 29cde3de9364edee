"""Draws a scene into the cameras of a rig."""

import math
from dataclasses import dataclass, field

import numpy as np

from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.raycast import cast_image
from thinktwice.minitown.sensors.shading import Air, Ground, Solids, shade_ground, shade_sky, shade_solids
from thinktwice.minitown.world.classes import GROUND_COLORS, GROUND_ROAD, GROUND_TO_CLASS
from thinktwice.minitown.world.primitives import PrimitiveSet

VIEW_DISTANCE = 160.0
"""Shapes farther from the ego than this are not drawn, meters."""


@dataclass(frozen=True)
class GroundMap:
    """What covers the ground plane, as a grid of ground codes.

    Attributes:
        codes: (R, C) uint8 ground codes.
        world2grid: (2, 3) matrix from world (X, Y, 1) to (column, row), cell centers at integers.
    """

    codes: np.ndarray
    world2grid: np.ndarray

    def ego2grid(self, pose: tuple[float, float, float]) -> np.ndarray:
        """Return the (2, 3) matrix from ego (x, y, 1) at `pose` (x, y, yaw) to (column, row)."""
        x, y, yaw = pose
        cos, sin = math.cos(yaw), math.sin(yaw)
        ego2world = np.array([[cos, -sin, x], [sin, cos, y], [0.0, 0.0, 1.0]])
        return self.world2grid @ ego2world

    def lookup(self, points: np.ndarray) -> np.ndarray:
        """Return the codes under world points (..., 2); terrain outside of the map."""
        grid = points @ self.world2grid[:, :2].T + self.world2grid[:, 2]
        column, row = np.floor(np.moveaxis(grid, -1, 0) + 0.5).astype(np.int64)
        inside = (row >= 0) & (row < self.codes.shape[0]) & (column >= 0) & (column < self.codes.shape[1])
        codes = self.codes[np.where(inside, row, 0), np.where(inside, column, 0)]
        return np.where(inside, codes, 0)


def plain_ground(code: int = GROUND_ROAD, reach: float = 200.0) -> GroundMap:
    """Return ground of one code over +-`reach` meters around the world origin."""
    cells = int(reach)
    codes = np.full((2 * cells, 2 * cells), code, dtype=np.uint8)
    return GroundMap(codes, np.array([[1.0, 0.0, cells], [0.0, 1.0, cells]]))


@dataclass(frozen=True)
class Lighting:
    """Sun and air of a drive.

    Attributes:
        sun: (3,) vector towards the sun in the world frame.
        ambient, direct: shares of the base color lit from everywhere and by the sun.
        haze: share of light lost per meter.
        haze_color, sky_color: RGB at the horizon and overhead.
    """

    sun: tuple[float, float, float] = (0.4, 0.5, 0.77)
    ambient: float = 0.55
    direct: float = 0.5
    haze: float = 0.002
    haze_color: tuple[float, float, float] = (205.0, 213.0, 220.0)
    sky_color: tuple[float, float, float] = (104.0, 148.0, 205.0)

    def in_ego(self, yaw: float) -> Air:
        """Return the light as seen in an ego frame with heading `yaw`, for the shader."""
        x, y, z = np.array(self.sun) / np.linalg.norm(self.sun)
        cos, sin = math.cos(yaw), math.sin(yaw)
        sun = np.array([cos * x + sin * y, -sin * x + cos * y, z])
        colors = np.array([self.haze_color, self.sky_color], dtype=np.float64)
        return Air(sun, self.ambient, self.direct, self.haze, colors[0], colors[1])


@dataclass(frozen=True)
class Scene:
    """All that can be seen at one moment."""

    shapes: PrimitiveSet
    ground: GroundMap = field(default_factory=plain_ground)
    lighting: Lighting = field(default_factory=Lighting)


@dataclass(frozen=True)
class CameraView:
    """One camera's picture.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float64 z-depth in meters, 1000 for the sky.
        classes: (H, W) uint8 semantic ids.
    """

    rgb: np.ndarray
    depth: np.ndarray
    classes: np.ndarray


class Renderer:
    """Ray-casts scenes into the cameras of `rig`."""

    def __init__(self, rig: CameraRig) -> None:
        self.rig = rig
        self._rays = rig.ego_rays
        self._ego2cam = [np.linalg.inv(camera.cam2ego) for camera in rig.cameras]
        self._lens = np.array(rig.intrinsics)

    def render(self, scene: Scene, pose: tuple[float, float, float]) -> list[CameraView]:
        """Return one view per camera, seen from an ego at `pose` (world x, y in meters, yaw in radians)."""
        shapes = scene.shapes.near(np.array(pose[:2]), VIEW_DISTANCE)
        table = shapes.in_ego(pose)
        solids = Solids(table, shapes.kind, shapes.color, shapes.texture, shapes.state, shapes.class_id)
        ground = Ground(scene.ground.codes, scene.ground.ego2grid(pose), GROUND_TO_CLASS, GROUND_COLORS)
        air = scene.lighting.in_ego(pose[2])
        views = []
        for camera, rays, ego2cam in zip(self.rig.cameras, self._rays, self._ego2cam, strict=True):
            origin = np.array(camera.position)
            depth = np.empty(self.rig.size)
            owner = np.empty(self.rig.size, dtype=np.int32)
            cast_image(rays, origin, ego2cam, self._lens, table, shapes.kind, depth, owner)
            rgb = np.empty((*self.rig.size, 3), dtype=np.uint8)
            classes = np.empty(self.rig.size, dtype=np.uint8)
            shade_sky(rays, owner, air, rgb, classes)
            shade_ground(rays, origin, depth, owner, ground, air, rgb, classes)
            shade_solids(rays, origin, depth, owner, solids, air, rgb, classes)
            views.append(CameraView(rgb, depth, classes))
        return views
