"""Base of the samplers: the key they yield, and the rank they sample for."""

from collections.abc import Sized
from typing import NamedTuple

from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """Index of a sample and the epoch in which it is read.

    The epoch is part of the key because persistent workers outlive an epoch: all randomness of a
    sample is a function of (seed, epoch, index), whichever worker loads it.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used on a key
    epoch: int


class RankSampler(Sampler[SampleKey]):
    """Sampler of one rank; None takes the rank and the world size from the process group.

    Raises:
        ValueError: if the dataset is empty or the rank is out of range.
    """

    def __init__(self, dataset: Sized, rank: int | None, num_ranks: int | None) -> None:
        own_rank, world_size = get_dist_info()
        self.rank = own_rank if rank is None else rank
        self.num_ranks = world_size if num_ranks is None else num_ranks
        self.num_samples = len(dataset)
        name = type(self).__name__
        if self.num_samples < 1:
            raise ValueError(f'{name}: the dataset is empty; check its split and metadata')
        if not 0 <= self.rank < self.num_ranks:
            raise ValueError(f'{name}: rank {self.rank} is outside 0..{self.num_ranks - 1}')
