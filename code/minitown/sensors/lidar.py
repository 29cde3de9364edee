"""A spinning LiDAR ray-cast on the same shapes as the cameras."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thinktwice.minitown.sensors.cameras import LIDAR_HEIGHT
from thinktwice.minitown.sensors.raycast import cast_sweep
from thinktwice.minitown.sensors.renderer import Scene


@dataclass(frozen=True)
class Lidar:
    """Ray pattern and losses; the defaults follow the sensor of the CARLA recordings.

    Args:
        channels: beams between `upper` and `lower`.
        columns: firings a turn; 64 x 937 are the 60,000 rays of a full sweep.
        upper, lower: elevation of the first and last beam, degrees.
        max_range: meters.
        attenuation: intensity is exp(-attenuation * range), per meter.
        drop_rate: share of returns lost at random.
        drop_intensity: returns weaker than this are lost more often ...
        drop_weak: ... up to this share at intensity 0.
    """

    channels: int = 64
    columns: int = 937
    upper: float = 10.0
    lower: float = -30.0
    max_range: float = 85.0
    attenuation: float = 0.004
    drop_rate: float = 0.45
    drop_intensity: float = 0.8
    drop_weak: float = 0.4

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 256 and 8 <= self.columns <= 8192):
            raise ValueError(
                'a LiDAR has 1 to 256 beams and 8 to 8192 firings a turn, '
                f'got {self.channels} and {self.columns}'
            )

    @cached_property
    def directions(self) -> np.ndarray:
        """The (channels, columns, 3) unit vectors of a sweep in the ego frame."""
        elevation = np.radians(np.linspace(self.upper, self.lower, self.channels))[:, None]
        azimuth = (np.arange(self.columns) * (2 * np.pi / self.columns))[None]
        x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
        z = np.broadcast_to(np.sin(elevation), x.shape)
        return np.ascontiguousarray(np.stack([x, y, z], axis=-1))

    def sweep(
        self, scene: Scene, pose: tuple[float, float, float], rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Return the (P, 4) float32 points x, y, z, intensity of a full turn from `pose`.

        Points are in the ego frame, z counted from the ground. The whole turn is
        taken at one moment. Without `rng` no return is lost.
        """
        origin = np.array([0.0, 0.0, LIDAR_HEIGHT])
        shapes = scene.shapes.near(np.array(pose[:2]), self.max_range)
        distance = np.empty((self.channels, self.columns))
        owner = np.empty(distance.shape, dtype=np.int32)
        cast_sweep(self.directions, origin, shapes.in_ego(pose), shapes.kind, self.max_range, distance, owner)
        hit = distance > 0
        reach = distance[hit]
        intensity = np.exp(-self.attenuation * reach)
        points = np.column_stack([origin + reach[:, None] * self.directions[hit], intensity])
        if rng is not None:
            lost = rng.random(len(points)) < self.drop_rate
            weak = np.clip(1.0 - intensity / self.drop_intensity, 0.0, 1.0) * self.drop_weak
            lost |= rng.random(len(points)) < weak
            points = points[~lost]
        return points.astype(np.float32)
