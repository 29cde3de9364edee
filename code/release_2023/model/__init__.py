"""The numerics of the 2023 release, for its official checkpoint and for comparison.

Each module implements differences from the corrected model as subclasses that override single steps.
``configs/thinktwice_reference.py`` selects them; no other part of the package refers to them.
docs/reference_quirks.md lists all differences.
"""

from thinktwice.release_2023.model.decoder import (
    ReferenceCameraLook,
    ReferenceLidarLook,
    ReferencePredictionModule,
    ReferenceRefineLayer,
    ReferenceThinkTwiceDecoder,
)
from thinktwice.release_2023.model.encoders import (
    ReferenceLidarEncoder,
    ReferenceLiftSplat,
    ReferenceLSSCameraEncoder,
)
from thinktwice.release_2023.model.training import (
    ReferencePhotometricAugmentation,
    ReferenceSegmentationLoss,
)

__all__ = [
    'ReferenceCameraLook',
    'ReferenceLSSCameraEncoder',
    'ReferenceLidarEncoder',
    'ReferenceLidarLook',
    'ReferenceLiftSplat',
    'ReferencePhotometricAugmentation',
    'ReferencePredictionModule',
    'ReferenceRefineLayer',
    'ReferenceSegmentationLoss',
    'ReferenceThinkTwiceDecoder',
]
