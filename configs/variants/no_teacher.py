"""The town's model on data without a teacher: recorded actions and waypoints are all that it learns from."""

_base_ = ['../thinktwice_minitown.py']

load_supervision = dict(with_features=False)
model = dict(
    losses=dict(
        # The base makes the plan light so that it does not drown the teacher's maps. Without these, nothing
        # but the plan trains the BEV map, and at these weights it has its share of the image backbone, too.
        action=dict(weight=1.0, future_weight=0.25),
        waypoint=dict(weight=1.0),
        speed=dict(weight=0.05),
        value=None,
        feature=None,
        bev_feature=None,
        refine_feature=None,
        teacher_forcing_offset=None,
        teacher_forcing_feature=None,
    ),
)
