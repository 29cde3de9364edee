"""The town's model with a BEV range of 43 m ahead: 30 x 21 cells instead of 21 x 21.

The teacher's maps have another range, so the losses that compare maps with them are left out.
"""

_base_ = ['../thinktwice_minitown.py']

x_range = (-5.3864, 42.865)  # m
model = dict(losses=dict(bev_feature=None, refine_feature=None, teacher_forcing_feature=None))
