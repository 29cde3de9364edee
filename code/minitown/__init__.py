"""A small procedural town that records drives in the on-disk format of the CARLA dataset.

`record` makes a dataset; `Drive` is one drive that can be stepped with one's own
controls; `Renderer` and `Lidar` look at any `Scene` of primitives, for tests that
need exact geometry.
"""

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.recording.dataset import DEFAULT_TOWNS, record
from thinktwice.minitown.sensors.cameras import CARLA_CAMERAS, Camera, CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.renderer import (
    CameraView,
    GroundMap,
    Lighting,
    Renderer,
    Scene,
    plain_ground,
)
from thinktwice.minitown.sensors.sensor_suite import Observation, Observer, Sensors
from thinktwice.minitown.traffic.ego_dynamics import Control
from thinktwice.minitown.world.primitives import BOX, CYLINDER, ELLIPSOID, PrimitiveBuilder, PrimitiveSet

__all__ = [
    'BOX',
    'CARLA_CAMERAS',
    'CYLINDER',
    'DEFAULT_TOWNS',
    'ELLIPSOID',
    'Camera',
    'CameraRig',
    'CameraView',
    'Control',
    'Drive',
    'GroundMap',
    'Lidar',
    'Lighting',
    'Observation',
    'Observer',
    'PrimitiveBuilder',
    'PrimitiveSet',
    'Renderer',
    'Scene',
    'Sensors',
    'plain_ground',
    'record',
]
