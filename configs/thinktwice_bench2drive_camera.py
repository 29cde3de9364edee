"""The paper's model on Bench2Drive without LiDAR: six cameras, in BEV and in the decoder's look."""

_base_ = ['thinktwice_bench2drive.py']

load_points = None
model = dict(
    lidar_encoder=None,
    bev_fusion=dict(lidar_channels=None),
    decoder=dict(lidar_look=None),
)
