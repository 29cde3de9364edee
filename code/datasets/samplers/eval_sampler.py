"""Order of the evaluation samples: every sample counts once, on any number of processes."""

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler

from thinktwice.registry import DATA_SAMPLERS

from .process_share import process_share
from .sample_key import SampleKey


@DATA_SAMPLERS.register_module()
class EvalSampler(Sampler[SampleKey]):
    """In order, dealt round: process k of R takes samples k, k + R, k + 2R, ...

    The list is continued cyclically to ceil(N / R) R indices, so all processes run the same
    number of steps. mmengine's metrics interleave the results of the processes and cut them to
    the length of the dataset: dealt round, the repeats are exactly what is cut, and the results
    come out in the dataset's order. (With contiguous shares the cut would drop true samples.)

    The loader must keep incomplete batches (``drop_last=False``, the default).

    Args:
        dataset: anything with a length.
        seed: accepted because mmengine's runner passes one to every sampler; there is no chance.
        rank: this process; by default asked from the running process group.
        num_ranks: number of processes; by default asked from the running process group.

    Raises:
        ValueError: for an empty dataset or a rank out of range.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int | None = None,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> None:
        share = process_share('EvalSampler', dataset, rank, num_ranks)
        self.rank, self.num_ranks, self.num_samples = share

    def __len__(self) -> int:
        return -(-self.num_samples // self.num_ranks)

    def __iter__(self) -> Iterator[SampleKey]:
        for step in range(len(self)):
            yield SampleKey((self.rank + step * self.num_ranks) % self.num_samples, 0)
