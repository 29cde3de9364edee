"""The town's model on data without a teacher: recorded actions and waypoints are all that it learns from."""

_base_ = ['../thinktwice_minitown.py']

load_supervision = dict(with_features=False)
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
