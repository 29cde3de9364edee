"""Hooks of the training loop."""

from thinktwice.core.hooks.averaging import AveragedWeightsHook
from thinktwice.core.hooks.checkpoint import AtomicCheckpointHook
from thinktwice.core.hooks.guards import NonFiniteGuardHook, SkippedSamplesHook, WatchdogHook
from thinktwice.core.hooks.health import HealthHook
from thinktwice.core.hooks.logs import EvaluationTimerHook, ReducedInfoHook
from thinktwice.core.hooks.pictures import PicturesHook
from thinktwice.core.hooks.preemption import PreemptionHook
from thinktwice.core.hooks.profile import ProfileHook
from thinktwice.core.hooks.step import BroadcastBuffersHook, StepSetupHook

__all__ = [
    'AtomicCheckpointHook',
    'AveragedWeightsHook',
    'BroadcastBuffersHook',
    'EvaluationTimerHook',
    'HealthHook',
    'NonFiniteGuardHook',
    'PicturesHook',
    'PreemptionHook',
    'ProfileHook',
    'ReducedInfoHook',
    'SkippedSamplesHook',
    'StepSetupHook',
    'WatchdogHook',
]
