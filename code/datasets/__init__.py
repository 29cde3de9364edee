"""Recorded drives: files, splits, pipelines, samplers, batches."""

from .carla_dataset import CarlaDataset
from .collate import collate_samples
from .corrupt_samples import SkippedSampleTally, UnusableSampleError
from .samplers import EvalSampler, SampleKey, TrainSampler
from .splits import SplitSpec
from .storage import SampleReadError

__all__ = [
    'CarlaDataset',
    'EvalSampler',
    'SampleKey',
    'SampleReadError',
    'SkippedSampleTally',
    'SplitSpec',
    'TrainSampler',
    'UnusableSampleError',
    'collate_samples',
]
