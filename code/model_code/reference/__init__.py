"""The numerics of the 2023 code, for its official checkpoint and for comparison with it.

Each module holds what 2023 did differently from the main line, as subclasses that override
the step in question. ``configs/thinktwice_reference.py`` selects them; nothing else of the
framework knows them. docs/reference_quirks.md lists all differences.
"""

from thinktwice.model_code.reference.camera_encoder import ReferenceLSSCameraEncoder
from thinktwice.model_code.reference.decoder import ReferenceRefineLayer, ReferenceThinkTwiceDecoder
from thinktwice.model_code.reference.lidar_encoder import ReferenceLidarEncoder
from thinktwice.model_code.reference.look import ReferenceCameraLook, ReferenceLidarLook
from thinktwice.model_code.reference.photometric import ReferencePhotometricAugmentation
from thinktwice.model_code.reference.prediction_module import ReferencePredictionModule
from thinktwice.model_code.reference.segmentation_loss import ReferenceSegmentationLoss
from thinktwice.model_code.reference.view_transform import ReferenceLiftSplat

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
