"""TransFuser (Chitta et al., 2022) on drives of the embedded town: image and LiDAR fused."""

_base_ = ['thinktwice_minitown.py']

load_supervision = None
load_cameras = dict(with_labels=False)
num_frames = 1
_backbone = dict(type='mmdet.ResNet', depth=18, base_channels=16, norm_eval=False)
model = dict(
    img_encoder=None,
    lidar_encoder=None,
    bev_fusion=None,
    flatten_head=None,
    scene_encoder=dict(
        type='TransFuserEncoder',
        image_backbone=_backbone,
        lidar_backbone=dict(**_backbone, in_channels=2),
        bev_grid=dict(  # cells of 0.6 m
            x_bounds=(-6.4, 32.0, 0.6), y_bounds=(-19.2, 19.2, 0.6), z_bounds=(-4.0, 10.0, 14.0)
        ),
        num_cameras='${num_cameras}',
        channels=256,
        token_channels=(32, 32, 64, 64),
        image_cells=(2, 4),
        lidar_cells=(4, 4),
        num_layers=2,
    ),
    decoder=dict(
        _delete_=True, type='GRUPlanner', num_steps='${horizon}', vector_channels=256, position_scale=10.0
    ),
    losses=dict(
        waypoint=dict(weight=1.0),
        action=None, speed=None, value=None, feature=None, bev_feature=None, refine_feature=None,
        segmentation=None, depth=None, teacher_forcing_offset=None, teacher_forcing_feature=None,
    ),
)  # fmt: skip
