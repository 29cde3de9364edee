"""The town's model on images without depth and class labels: depth is learned from the plan alone."""

_base_ = ['../thinktwice_minitown.py']

load_cameras = dict(with_labels=False)
model = dict(
    img_encoder=dict(seg_head=None, seg_branch=None),
    losses=dict(segmentation=None, depth=None),
)
