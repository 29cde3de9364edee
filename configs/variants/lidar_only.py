"""The town's model without cameras: the LiDAR alone, in BEV and in the decoder's look."""

_base_ = ['../thinktwice_minitown.py']

load_cameras = None
model = dict(
    img_encoder=None,
    bev_fusion=dict(camera_channels=None),
    decoder=dict(camera_look=None),
    losses=dict(segmentation=None, depth=None),
)
