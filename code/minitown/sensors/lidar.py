"""A spinning LiDAR, ray-cast on the same shapes as the cameras."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thinktwice.errors import ConfigError
from thinktwice.minitown.sensors.raycast import cast_sweep
from thinktwice.minitown.world.scene import Scene

LIDAR_HEIGHT = 2.5
"""Height of the sensor above the ego origin, meters."""


@dataclass(frozen=True)
class Lidar:
    """Ray pattern and dropout; the defaults are those of the sensor of the CARLA recordings.

    Args:
        channels: Beams between `upper` and `lower`.
        columns: Firings per revolution; 64 x 937 are the 60,000 rays of a full sweep.
        upper: Elevation of the first beam, degrees.
        lower: Elevation of the last beam, degrees.
        max_range: Meters.
        attenuation: Intensity is exp(-attenuation * range), per meter.
        drop_rate: Probability that a return is lost.
        drop_intensity: Below this intensity returns are lost with an additional probability ...
        drop_weak: ... that grows linearly to this value at intensity 0.

    Raises:
        ConfigError: The number of channels or columns is out of range.
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
            raise ConfigError(
                'a LiDAR has 1 to 256 beams and 8 to 8192 firings per revolution, '
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
        """Return the (P, 4) float32 points x, y, z, intensity of a full revolution.

        The whole revolution is taken at one moment.

        Args:
            scene: The world at that moment.
            pose: World x, y in meters and yaw in radians of the ego.
            rng: Decides which returns are lost; without it none is.

        Returns:
            Points in the ego frame, meters; z is the height above the ground.
        """
        origin = np.array([0.0, 0.0, LIDAR_HEIGHT])
        shapes = scene.shapes.near(np.array(pose[:2]), self.max_range)
        distance = np.empty((self.channels, self.columns))
        owner = np.empty(distance.shape, dtype=np.int32)
        cast_sweep(self.directions, origin, shapes.in_ego(pose), shapes.kind, self.max_range, distance, owner)
        rays = np.flatnonzero(distance)
        reach = distance.ravel()[rays]
        intensity = np.exp(-self.attenuation * reach)
        if rng is not None:
            kept = rng.random(len(rays)) >= self.drop_rate
            weak = np.clip(1.0 - intensity / self.drop_intensity, 0.0, 1.0) * self.drop_weak
            kept &= rng.random(len(rays)) >= weak
            rays, reach, intensity = rays[kept], reach[kept], intensity[kept]
        points = np.empty((len(rays), 4), dtype=np.float32)
        points[:, :3] = origin + reach[:, None] * self.directions.reshape(-1, 3)[rays]
        points[:, 3] = intensity
        return points
