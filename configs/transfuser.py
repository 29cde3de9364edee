"""TransFuser (Chitta et al., 2022) on CARLA's drives: three cameras and LiDAR, fused stage by stage."""

_base_ = ['thinktwice.py']

load_supervision = None
load_cameras = dict(with_labels=False)
num_frames = 1
cameras = ['left', 'front', 'right']
num_cameras = 3
image_size = (160, 320)  # height and width of the network input of each camera, pixels
_backbone = dict(type='mmdet.ResNet', depth=34, norm_eval=False)
_weights = dict(type='Pretrained', checkpoint='torchvision://resnet34')
model = dict(
    img_encoder=None,
    lidar_encoder=None,
    bev_fusion=None,
    flatten_head=None,
    scene_encoder=dict(
        type='TransFuserEncoder',
        image_backbone=dict(**_backbone, init_cfg=_weights),
        lidar_backbone=dict(**_backbone, in_channels=2),
        bev_grid=dict(  # 32 m ahead and 16 m to each side, cells of 12.5 cm
            x_bounds=(0.0, 32.0, 0.125), y_bounds=(-16.0, 16.0, 0.125), z_bounds=(-4.0, 10.0, 14.0)
        ),
        num_cameras='${num_cameras}',
        image_cells=(5, 7),
    ),
    decoder=dict(_delete_=True, type='GRUPlanner', num_steps='${horizon}'),
    losses=dict(
        action=None, speed=None, value=None, feature=None, bev_feature=None, refine_feature=None,
        segmentation=None, depth=None, teacher_forcing_offset=None, teacher_forcing_feature=None,
    ),
)  # fmt: skip
