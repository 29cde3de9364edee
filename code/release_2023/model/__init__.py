"""The numerics of the 2023 release, for its official checkpoint and for comparison.

Each module implements differences from the corrected model as subclasses that override single steps.
``configs/thinktwice_reference.py`` selects them; no other part of the package refers to them.
docs/reference_quirks.md lists all differences.
"""

from thinktwice.release_2023.model.camera_encoder import ReferenceLSSCameraEncoder
from thinktwice.release_2023.model.decoder import ReferenceRefineLayer, ReferenceThinkTwiceDecoder
from thinktwice.release_2023.model.lidar_encoder import ReferenceLidarEncoder
from thinktwice.release_2023.model.look import ReferenceCameraLook, ReferenceLidarLook
from thinktwice.release_2023.model.photometric import ReferencePhotometricAugmentation
from thinktwice.release_2023.model.prediction_module import ReferencePredictionModule
from thinktwice.release_2023.model.segmentation_loss import ReferenceSegmentationLoss
from thinktwice.release_2023.model.view_transform import ReferenceLiftSplat

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
