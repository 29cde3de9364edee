"""Steps that prepare samples as the 2023 code did, for its official checkpoint.

``configs/thinktwice_reference.py`` selects them; docs/reference_quirks.md lists all differences.
"""

from .images import ReferenceLoadCameras
from .measurements import ReferenceLoadMeasurements, ReferenceLoadWaypoints
from .points import ReferenceLoadPoints

__all__ = [
    'ReferenceLoadCameras',
    'ReferenceLoadMeasurements',
    'ReferenceLoadPoints',
    'ReferenceLoadWaypoints',
]
