"""The paper's choices in the size of the embedded town's model: corrected, and as in 2023."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

MAIN = """
_base_ = [{base!r}]
model = dict(
    img_encoder=dict(depth_net=dict(camera_norm='batch')),
    bev_fusion=dict(reduce_norm=False),
    flatten_head=dict(separate_norms=False),
)
"""
REFERENCE = """
_base_ = ['small_main.py']
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
    losses=dict(segmentation=dict(type='ReferenceSegmentationLoss')),
)
"""


def write_small_configs(folder: Path) -> tuple[Path, Path]:
    """Write both configs into a folder and return the paths of the corrected and of the reference one."""
    main, reference = folder / 'small_main.py', folder / 'small_reference.py'
    main.write_text(MAIN.format(base=str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')))
    reference.write_text(REFERENCE)
    return main, reference
