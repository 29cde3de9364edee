"""The sensors of the ego vehicle and what they observe at one moment."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.renderer import CameraView, Renderer
from thinktwice.minitown.world.scene import Scene


@dataclass(frozen=True)
class Observation:
    """Sensor data of one moment.

    Attributes:
        views: One per camera, in the order of the rig.
        points: (P, 4) float32 x, y, z in the ego frame in meters, intensity.
    """

    views: list[CameraView]
    points: np.ndarray


@dataclass(frozen=True)
class Sensors:
    """Cameras and LiDAR of the ego vehicle."""

    rig: CameraRig
    lidar: Lidar = field(default_factory=Lidar)

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.rig)

    def observe(
        self, scene: Scene, pose: tuple[float, float, float], lidar_rng: np.random.Generator | None = None
    ) -> Observation:
        """Return what the sensors observe.

        Args:
            scene: The world at this moment.
            pose: World x, y in meters and yaw in radians of the ego.
            lidar_rng: Decides which LiDAR returns are lost; without it none is.
        """
        return Observation(self._renderer.render(scene, pose), self.lidar.sweep(scene, pose, lidar_rng))
