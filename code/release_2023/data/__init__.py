"""Pipeline steps that prepare samples as the 2023 code did, for the official checkpoint.

``configs/thinktwice_reference.py`` selects them; docs/reference_quirks.md lists all differences.
"""

from thinktwice.release_2023.data.images import ReferenceLoadCameras
from thinktwice.release_2023.data.measurements import ReferenceLoadMeasurements, ReferenceLoadWaypoints
from thinktwice.release_2023.data.points import ReferenceLoadPoints

__all__ = [
    'ReferenceLoadCameras',
    'ReferenceLoadMeasurements',
    'ReferenceLoadPoints',
    'ReferenceLoadWaypoints',
]
