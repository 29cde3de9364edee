"""TCP (Wu et al., 2022) on drives of the embedded town: one image, a trajectory and a control branch."""

_base_ = ['thinktwice_minitown.py']

load_points = None
load_cameras = dict(with_labels=False)
num_frames = 1
cameras = ['front']
num_cameras = 1
model = dict(
    img_encoder=None,
    lidar_encoder=None,
    bev_fusion=None,
    flatten_head=None,
    scene_encoder=dict(
        type='ImageSceneEncoder',
        backbone=dict(type='mmdet.ResNet', depth=18, base_channels=16, norm_eval=False),
        num_cameras='${num_cameras}',
        in_channels=128,
        out_channels=256,
    ),
    decoder=dict(
        _delete_=True,
        type='TCPHead',
        num_steps='${horizon}',
        vector_channels=256,
        image_channels=128,
        hidden_channels=256,
        position_scale=10.0,  # m
    ),
    # The paper's weights, but for that of the feature, 0.05 there: after 150 steps of 8 samples (seed 0)
    # ADE was 0.64 m instead of 0.83 m, both with the paper's waypoint loss (beta=1.0).
    losses=dict(
        action=dict(weight=1.0, future_weight=1.0), waypoint=dict(weight=1.0), speed=dict(weight=0.05),
        value=dict(weight=0.001), feature=dict(weight=2.0),
        bev_feature=None, refine_feature=None, segmentation=None, depth=None,
        teacher_forcing_offset=None, teacher_forcing_feature=None,
    ),
)  # fmt: skip
