"""What a sampler hands to the dataset."""

from typing import NamedTuple


class SampleKey(NamedTuple):
    """A sample of one epoch.

    The epoch travels with the index because worker processes can outlive an epoch: all
    randomness of a sample is a function of (seed, epoch, index), whatever worker reads it.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a key
    epoch: int
