"""Open-loop metrics and baselines."""

from thinktwice.core.evaluation.functional import (
    average_displacement_error,
    axis_offsets,
    constant_velocity_plan,
    control_error,
    displacement,
    final_displacement_error,
)
from thinktwice.core.evaluation.metrics import (
    METRIC_NAMES,
    ConstantVelocityMetric,
    MeanPlanMetric,
    OpenLoopMetric,
    SampleMetric,
)
from thinktwice.core.evaluation.perception import PerceptionMetric

__all__ = [
    'METRIC_NAMES',
    'ConstantVelocityMetric',
    'MeanPlanMetric',
    'OpenLoopMetric',
    'PerceptionMetric',
    'SampleMetric',
    'average_displacement_error',
    'axis_offsets',
    'constant_velocity_plan',
    'control_error',
    'displacement',
    'final_displacement_error',
]
