"""TCP (Wu et al., 2022) on CARLA's drives: the front camera, a trajectory and a control branch."""

_base_ = ['thinktwice.py']

load_points = None
load_cameras = dict(with_labels=False)
num_frames = 1
cameras = ['front']
num_cameras = 1
image_size = (256, 896)  # height and width of the network input, pixels
model = dict(
    img_encoder=None,
    lidar_encoder=None,
    bev_fusion=None,
    flatten_head=None,
    scene_encoder=dict(
        type='ImageSceneEncoder',
        backbone=dict(
            type='mmdet.ResNet',
            depth=34,
            norm_eval=False,
            init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
        ),
        num_cameras='${num_cameras}',
        in_channels=512,
        out_channels=512,
    ),
    decoder=dict(_delete_=True, type='TCPHead', num_steps='${horizon}'),
    losses=dict(
        bev_feature=None, refine_feature=None, segmentation=None, depth=None,
        teacher_forcing_offset=None, teacher_forcing_feature=None,
    ),
)  # fmt: skip
