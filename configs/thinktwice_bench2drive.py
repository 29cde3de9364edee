"""The paper's model on Bench2Drive: six cameras and LiDAR, without the losses on a teacher's features."""

_base_ = [
    '_base_/models/thinktwice.py',
    '_base_/datasets/bench2drive.py',
    '_base_/schedules/adamw_cosine_60e.py',
    '_base_/default_runtime.py',
]

is_dev = False  # True: two samples of each town, no workers, a log line per step
is_full = False  # makes no difference: the split is that of Bench2Drive's authors

num_cameras = 6
depth_bounds = (1.0, 41.0, 1.0)  # m: first, last, width of a depth bin; depth is recorded in whole meters
model = dict(
    losses=dict(
        value=None,
        feature=None,
        bev_feature=None,
        refine_feature=None,
        teacher_forcing_offset=None,
        teacher_forcing_feature=None,
    ),
)
