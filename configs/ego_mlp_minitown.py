"""A planner without sensors on drives of the embedded town: the baseline of all models that have some."""

_base_ = ['thinktwice_minitown.py']

load_points = load_cameras = None
load_supervision = dict(with_features=False)
num_frames = 1
model = dict(
    img_encoder=None,
    lidar_encoder=None,
    bev_fusion=None,
    flatten_head=None,
    decoder=dict(_delete_=True, type='EgoStatusPlanner', num_steps='${horizon}', hidden_channels=128),
    losses=dict(
        action=dict(weight=1.0, future_weight=0.25),
        waypoint=dict(weight=1.0),
        speed=None,
        value=None,
        feature=None,
        bev_feature=None,
        refine_feature=None,
        teacher_forcing_offset=None,
        teacher_forcing_feature=None,
        segmentation=None,
        depth=None,
    ),
)
