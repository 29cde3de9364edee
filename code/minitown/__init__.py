"""A small procedural town that records drives in the on-disk format of the CARLA dataset.

`record` records a dataset. `Drive` is one drive that can be stepped with one's own controls
and observed by a `Sensors`. `Renderer` and `Lidar` also work on any `Scene` of
primitives, for tests that need exact geometry.
"""

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.recording.calibration import make_calibration
from thinktwice.minitown.recording.dataset import DEFAULT_TOWNS, record
from thinktwice.minitown.recording.drivers import Driver, Expert, NoisyExpert, TakingTurns
from thinktwice.minitown.sensors.cameras import CARLA_CAMERAS, Camera, CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.renderer import CameraView, Renderer
from thinktwice.minitown.sensors.sensor_suite import Observation, Sensors
from thinktwice.minitown.traffic.ego_dynamics import Control
from thinktwice.minitown.world.primitives import BOX, CYLINDER, ELLIPSOID, PrimitiveBuilder, PrimitiveSet
from thinktwice.minitown.world.scene import GroundMap, Lighting, Scene, plain_ground

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
    'Driver',
    'Expert',
    'GroundMap',
    'Lidar',
    'Lighting',
    'NoisyExpert',
    'Observation',
    'PrimitiveBuilder',
    'PrimitiveSet',
    'Renderer',
    'Scene',
    'Sensors',
    'TakingTurns',
    'make_calibration',
    'plain_ground',
    'record',
]
