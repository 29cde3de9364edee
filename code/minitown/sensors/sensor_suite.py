"""What a car in the town carries and what it perceives at one moment."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.renderer import CameraView, Renderer


@dataclass(frozen=True)
class Sensors:
    """What a recording car carries.

    Attributes:
        rig: the cameras.
        lidar: the LiDAR.
        debug_maps: whether a recorder saves the teacher's masks too (2.2 MB a frame).
    """

    rig: CameraRig
    lidar: Lidar = field(default_factory=Lidar)
    debug_maps: bool = False


@dataclass(frozen=True)
class Observation:
    """One moment as a car perceives it.

    Attributes:
        views: one per camera, in the order of the rig.
        points: (P, 4) float32 x, y, z, intensity in the ego frame.
        measurements: as recorded (see `Drive.measurements`).
    """

    views: list[CameraView]
    points: np.ndarray
    measurements: dict[str, Any]


class Observer:
    """Perceives drives with a set of sensors; keeps the cameras' rays from call to call."""

    def __init__(self, sensors: Sensors) -> None:
        self._renderer = Renderer(sensors.rig)
        self._lidar = sensors.lidar

    def observe(self, drive: Drive, lidar_rng: np.random.Generator | None = None) -> Observation:
        """Return what the ego of `drive` perceives now; `lidar_rng` decides which returns are lost."""
        scene = drive.scene()
        return Observation(
            views=self._renderer.render(scene, drive.ego.pose),
            points=self._lidar.sweep(scene, drive.ego.pose, lidar_rng),
            measurements=drive.measurements(),
        )
