"""Running a model: loop, optimizer wrapper, runner, hooks, evaluation, visualization."""

from thinktwice.core.loops import ResumableTrainLoop, TrainPosition
from thinktwice.core.optim_wrapper import GuardedOptimWrapper
from thinktwice.core.runner import DrivingRunner

__all__ = ['DrivingRunner', 'GuardedOptimWrapper', 'ResumableTrainLoop', 'TrainPosition']
