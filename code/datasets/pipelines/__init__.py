"""Pipeline steps that load one sample. Each documents the keys it requires, modifies and adds."""

from .images import LoadCameras
from .measurements import LoadMeasurements, LoadWaypoints
from .pack import PackSample, run_pipeline
from .points import LoadPoints
from .supervision import LoadSupervision

__all__ = [
    'LoadCameras',
    'LoadMeasurements',
    'LoadPoints',
    'LoadSupervision',
    'LoadWaypoints',
    'PackSample',
    'run_pipeline',
]
