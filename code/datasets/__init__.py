"""Recorded drives: datasets, splits, pipelines, samplers, collation."""

from .bench2drive import Bench2DriveDataset
from .carla_dataset import CarlaDataset
from .collate import collate_samples, take_sample
from .corrupt_samples import SkippedSampleTally
from .samplers import EvalSampler, SampleKey, TrainSampler
from .splits import SplitSpec
from .storage import SampleReadError, UnusableSampleError
from .wrappers import ConcatDataset, RepeatDataset

__all__ = [
    'Bench2DriveDataset',
    'CarlaDataset',
    'ConcatDataset',
    'EvalSampler',
    'RepeatDataset',
    'SampleKey',
    'SampleReadError',
    'SkippedSampleTally',
    'SplitSpec',
    'TrainSampler',
    'UnusableSampleError',
    'collate_samples',
    'take_sample',
]
