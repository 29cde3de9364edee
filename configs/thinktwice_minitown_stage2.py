"""Second stage of the town's training: the whole decoder on the encoders of the first.

Pass the checkpoint of the first stage with ``--load-from``.
"""

_base_ = ['thinktwice_minitown.py']

model = dict(
    frozen=('img_encoder', 'lidar_encoder', 'bev_fusion'),  # the plan is learned faster from maps that stay
    losses=dict(segmentation=None, depth=None),
)
