"""Samplers: the order of the samples on each rank."""

from .base import SampleKey
from .eval_sampler import EvalSampler
from .train_sampler import TrainSampler

__all__ = ['EvalSampler', 'SampleKey', 'TrainSampler']
