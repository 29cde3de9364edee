"""Which process of how many a sampler serves."""

from collections.abc import Sized
from typing import NamedTuple

from mmengine.dist import get_dist_info


class ProcessShare(NamedTuple):
    """A process, the number of processes, and the samples that they share."""

    rank: int
    num_ranks: int
    num_samples: int


def process_share(sampler: str, dataset: Sized, rank: int | None, num_ranks: int | None) -> ProcessShare:
    """Fill in and check what a sampler has to know.

    Args:
        sampler: name of the sampler, for messages.
        dataset: anything with a length.
        rank: this process; None asks the running process group.
        num_ranks: number of processes; None asks the running process group.

    Raises:
        ValueError: for an empty dataset or a rank out of range.
    """
    process, processes = get_dist_info()
    rank = process if rank is None else rank
    num_ranks = processes if num_ranks is None else num_ranks
    if len(dataset) < 1:
        raise ValueError(f'{sampler}: the dataset is empty; check its split and metadata')
    if not 0 <= rank < num_ranks:
        raise ValueError(f'{sampler}: rank {rank} is outside 0..{num_ranks - 1}')
    return ProcessShare(rank, num_ranks, len(dataset))
