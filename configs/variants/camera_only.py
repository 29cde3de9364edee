"""The town's model without LiDAR: cameras alone, in BEV and in the decoder's look."""

_base_ = ['../thinktwice_minitown.py']

load_points = None
model = dict(
    lidar_encoder=None,
    bev_fusion=dict(lidar_channels=None),
    decoder=dict(lidar_look=None),
)
