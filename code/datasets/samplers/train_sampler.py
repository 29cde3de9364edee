"""Order of the training samples: block-shuffled, the same on any number of workers."""

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler

from thinktwice.registry import DATA_SAMPLERS

from .process_share import process_share
from .sample_key import SampleKey


@DATA_SAMPLERS.register_module()
class TrainSampler(Sampler[SampleKey]):
    """Random order in blocks of one batch, cut into one contiguous share per process.

    With N samples, batch size B and R processes, in epoch e:

    1. a generator seeded with ``seed + e`` permutes the N indices;
    2. they are continued cyclically to M = ceil(N / (B R)) B R indices, so that every process
       gets the same number of full batches;
    3. the M / B blocks of B indices are permuted by the same generator;
    4. process k takes the k-th contiguous share of M / R indices.

    The order is a pure function of (seed, epoch, N, B, R): resuming inside an epoch needs no
    replay, see `set_start`.

    Args:
        dataset: anything with a length.
        batch_size: samples per process and step; the loader's batch size.
        seed: seed of the order, >= 0. None means 0.
        rank: this process; by default asked from the running process group.
        num_ranks: number of processes; by default asked from the running process group.

    Raises:
        ValueError: for an empty dataset, a batch size below 1 or a rank out of range.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int | None = 0,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> None:
        share = process_share('TrainSampler', dataset, rank, num_ranks)
        self.rank, self.num_ranks, self.num_samples = share
        self.batch_size = batch_size
        self.seed = 0 if seed is None else seed
        self.epoch = 0
        self.start = 0
        if self.batch_size < 1:
            raise ValueError(f'TrainSampler: batch_size must be >= 1, got {self.batch_size}')

    @property
    def total_size(self) -> int:
        """M: indices of one epoch over all processes, repeats included."""
        step = self.batch_size * self.num_ranks
        return -(-self.num_samples // step) * step

    def __len__(self) -> int:
        """Indices of a whole epoch on this process, wherever the next iteration starts."""
        return self.total_size // self.num_ranks

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        for index in self.indices()[self.start :].tolist():
            yield SampleKey(index, epoch)

    def indices(self) -> torch.Tensor:
        """This process' share of the current epoch: (M / R,) int64 indices."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator)
        order = order[torch.arange(self.total_size) % self.num_samples]
        blocks = order.view(-1, self.batch_size)
        blocks = blocks[torch.randperm(len(blocks), generator=generator)]
        return blocks.reshape(self.num_ranks, -1)[self.rank]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; another epoch starts at its beginning."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def set_start(self, position: int) -> None:
        """Start the current epoch at a position, without loading what lies before it.

        Args:
            position: samples of this process already used in this epoch, 0 .. len(self).

        Raises:
            ValueError: if the position lies outside the epoch.
        """
        if not 0 <= position <= len(self):
            raise ValueError(f'TrainSampler: start {position} is outside the epoch of {len(self)} samples')
        self.start = position

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands, and everything its order depends on."""
        return dict(epoch=self.epoch, start=self.start, **self._order_state())

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved place.

        Raises:
            ValueError: if the order of the samples is not the one of the saved state, because the
                seed, the data, the batch size or the number of processes differs.
        """
        changed = {
            key: (state.get(key), value)
            for key, value in self._order_state().items()
            if state.get(key) != value
        }
        if changed:
            listing = ', '.join(f'{key} was {old}, is {new}' for key, (old, new) in changed.items())
            raise ValueError(
                f'TrainSampler: the order of samples differs from the saved run ({listing}); '
                'restore these values, or start the epoch anew without the saved sampler state'
            )
        self.set_epoch(state['epoch'])
        self.set_start(state['start'])

    def _order_state(self) -> dict[str, int]:
        return {
            'seed': self.seed,
            'num_samples': self.num_samples,
            'batch_size': self.batch_size,
            'num_ranks': self.num_ranks,
        }
