"""Evaluation order: every sample counts once, with any number of ranks."""

from collections.abc import Iterator, Sized

from thinktwice.registry import DATA_SAMPLERS

from .base import RankSampler, SampleKey


@DATA_SAMPLERS.register_module()
class EvalSampler(RankSampler):
    """Samples in order, interleaved: rank k of R takes samples k, k + R, k + 2R, ...

    The indices are padded cyclically to ceil(N / R) R, so that all ranks run the same number of
    steps. mmengine's metrics interleave the results of the ranks and truncate them to the length
    of the dataset: with interleaved indices, exactly the padding is removed and the results are
    in dataset order. (With contiguous shares, the truncation would remove real samples.)

    The loader must keep incomplete batches (``drop_last=False``, the default).

    Arguments are those of `RankSampler`; mmengine's runner passes a seed to every sampler, unused here.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int | None = None,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> None:
        super().__init__(dataset, rank, num_ranks)

    def __len__(self) -> int:
        return -(-self.num_samples // self.num_ranks)

    def __iter__(self) -> Iterator[SampleKey]:
        for step in range(len(self)):
            yield SampleKey((self.rank + step * self.num_ranks) % self.num_samples, 0)
