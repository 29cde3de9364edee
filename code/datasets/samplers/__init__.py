"""Samplers: which samples, in which order, on which process."""

from .eval_sampler import EvalSampler
from .sample_key import SampleKey
from .train_sampler import TrainSampler

__all__ = ['EvalSampler', 'SampleKey', 'TrainSampler']
