"""Steps that turn a sample's name into tensors. Each states what it needs and adds."""

from .images import LoadCameras
from .measurements import LoadMeasurements, LoadWaypoints
from .pack import PackSample
from .points import LoadPoints
from .supervision import LoadSupervision

__all__ = ['LoadCameras', 'LoadMeasurements', 'LoadPoints', 'LoadSupervision', 'LoadWaypoints', 'PackSample']
