"""Renders a scene into the cameras of a rig."""

from dataclasses import dataclass

import numpy as np

from thinktwice.geometry.poses import world_to_ego
from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.raycast import cast_image
from thinktwice.minitown.sensors.shading import Air, Ground, Solids, shade_ground, shade_sky, shade_solids
from thinktwice.minitown.world.classes import GROUND_COLORS, GROUND_TO_CLASS
from thinktwice.minitown.world.scene import Lighting, Scene

VIEW_DISTANCE = 160.0
"""Shapes farther from the ego than this are not drawn, meters."""


@dataclass(frozen=True)
class CameraView:
    """Image of one camera.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float64 z-depth in meters, 1000 for the sky.
        classes: (H, W) uint8 semantic class ids.
    """

    rgb: np.ndarray
    depth: np.ndarray
    classes: np.ndarray


class Renderer:
    """Renders scenes with the cameras of `rig`."""

    def __init__(self, rig: CameraRig) -> None:
        self.rig = rig
        self._rays = rig.ego_rays
        self._ego2cam = [np.linalg.inv(camera.cam2ego) for camera in rig.cameras]
        self._intrinsics = np.array(rig.intrinsics)

    def render(self, scene: Scene, pose: tuple[float, float, float]) -> list[CameraView]:
        """Return one view per camera, seen from an ego at `pose` (world x, y in meters, yaw in radians)."""
        shapes = scene.shapes.near(np.array(pose[:2]), VIEW_DISTANCE)
        table = shapes.in_ego(pose)
        solids = Solids(table, shapes.kind, shapes.color, shapes.texture, shapes.state, shapes.class_id)
        ground = Ground(scene.ground.codes, scene.ground.ego2grid(pose), GROUND_TO_CLASS, GROUND_COLORS)
        air = _air_in_ego(scene.lighting, pose[2])
        views = []
        for camera, rays, ego2cam in zip(self.rig.cameras, self._rays, self._ego2cam, strict=True):
            origin = np.array(camera.position)
            depth = np.empty(self.rig.size)
            owner = np.empty(self.rig.size, dtype=np.int32)
            cast_image(rays, origin, ego2cam, self._intrinsics, table, shapes.kind, depth, owner)
            rgb = np.empty((*self.rig.size, 3), dtype=np.uint8)
            classes = np.empty(self.rig.size, dtype=np.uint8)
            shade_sky(rays, owner, air, rgb, classes)
            shade_ground(rays, origin, depth, owner, ground, air, rgb, classes)
            shade_solids(rays, origin, depth, owner, solids, air, rgb, classes)
            views.append(CameraView(rgb, depth, classes))
        return views


def _air_in_ego(lighting: Lighting, yaw: float) -> Air:
    """Return the lighting in an ego frame with heading `yaw`, as the shader takes it."""
    sun = world_to_ego(np.array(lighting.sun) / np.linalg.norm(lighting.sun), (0.0, 0.0, yaw))
    haze_color, sky_color = np.array([lighting.haze_color, lighting.sky_color], dtype=np.float64)
    return Air(sun, lighting.ambient, lighting.direct, lighting.haze, haze_color, sky_color)
