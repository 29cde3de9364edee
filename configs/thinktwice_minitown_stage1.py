"""First stage of the town's training: encoders and coarse plan, at half the cost of a step."""

_base_ = ['thinktwice_minitown.py']

num_refine_layers = 0
model = dict(losses=dict(refine_feature=None, teacher_forcing_offset=None, teacher_forcing_feature=None))
