"""The numerics of the 2023 code, for its official checkpoint and for comparison with it.

Each module holds what 2023 did differently from the main line, as subclasses that override
the step in question. ``configs/thinktwice_reference.py`` selects them; nothing else of the
framework knows them. docs/reference_quirks.md lists all differences.
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
