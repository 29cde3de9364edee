"""A config of the reference types in the size of the embedded town's model."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = """
_base_ = [{base!r}]
segmentation_loss = 'ReferenceSegmentationLoss'
model = dict(
    img_encoder=dict(type='ReferenceLSSCameraEncoder', view_transform=dict(type='ReferenceLiftSplat')),
    lidar_encoder=dict(type='ReferenceLidarEncoder'),
    decoder=dict(
        type='ReferenceThinkTwiceDecoder',
        prediction_module=dict(type='ReferencePredictionModule'),
        camera_look=dict(type='ReferenceCameraLook'),
        lidar_look=dict(type='ReferenceLidarLook'),
        refine_layer=dict(type='ReferenceRefineLayer'),
    ),
)
"""


def write_small_reference_config(folder: Path) -> Path:
    """Write the config into a folder and return its path."""
    path = folder / 'small_reference.py'
    path.write_text(CONFIG.format(base=str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')))
    return path
