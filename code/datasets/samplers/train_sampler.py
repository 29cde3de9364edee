"""Training order: shuffled in blocks, independent of the number of workers."""

from collections.abc import Iterator, Sized

import torch

from thinktwice.registry import DATA_SAMPLERS

from .base import RankSampler, SampleKey


@DATA_SAMPLERS.register_module()
class TrainSampler(RankSampler):
    """Random order in blocks of one batch, split into one contiguous share per rank.

    With N samples, batch size B and R ranks, in epoch e:

    1. a generator seeded with ``seed + e`` permutes the N indices;
    2. they are padded cyclically to M = ceil(N / (B R)) B R indices, so that every rank gets the
       same number of full batches;
    3. the same generator permutes the M / B blocks of B indices;
    4. rank k takes the k-th contiguous share of M / R indices.

    The order is a pure function of (seed, epoch, N, B, R), so resuming in the middle of an epoch
    needs no replay, see `set_start`.

    Args:
        dataset: any sized object.
        batch_size: batch size per rank, >= 1; equal to the loader's.
        seed: seed of the order, >= 0; None means 0.
        rank: as in `RankSampler`.
        num_ranks: as in `RankSampler`.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int | None = 0,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> None:
        super().__init__(dataset, rank, num_ranks)
        self.batch_size = batch_size
        self.seed = 0 if seed is None else seed
        self.epoch = 0
        self.start = 0
        if self.batch_size < 1:
            raise ValueError(f'TrainSampler: batch_size must be >= 1, got {self.batch_size}')

    @property
    def total_size(self) -> int:
        """Number of indices per epoch over all ranks, padding included (M)."""
        step = self.batch_size * self.num_ranks
        return -(-self.num_samples // step) * step

    def __len__(self) -> int:
        """Number of indices per epoch on this rank, regardless of `set_start`."""
        return self.total_size // self.num_ranks

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        for index in self.indices()[self.start :].tolist():
            yield SampleKey(index, epoch)

    def indices(self) -> torch.Tensor:
        """Indices of this rank in the current epoch, (M / R,) int64."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator)
        order = order[torch.arange(self.total_size) % self.num_samples]
        blocks = order.view(-1, self.batch_size)
        blocks = blocks[torch.randperm(len(blocks), generator=generator)]
        return blocks.reshape(self.num_ranks, -1)[self.rank]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; changing the epoch resets the start to 0."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def set_start(self, position: int) -> None:
        """Start the current epoch after this many samples of this rank, without loading them.

        Raises:
            ValueError: if the position is outside the epoch, 0..len(self).
        """
        if not 0 <= position <= len(self):
            raise ValueError(f'TrainSampler: start {position} is outside the epoch of {len(self)} samples')
        self.start = position

    def state_dict(self) -> dict[str, int]:
        """Position of the sampler and everything its order depends on."""
        return dict(epoch=self.epoch, start=self.start, **self._order_state())

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore a saved position.

        Raises:
            ValueError: if the order of the samples differs from the saved one because the seed,
                the number of samples, the batch size or the world size changed.
        """
        changes = [
            f'{key} was {state.get(key)}, is {value}'
            for key, value in self._order_state().items()
            if state.get(key) != value
        ]
        if changes:
            raise ValueError(
                f'TrainSampler: the order of samples differs from the saved run ({", ".join(changes)}); '
                'restore these values, or restart the epoch without the saved sampler state'
            )
        self.set_epoch(state['epoch'])
        self.set_start(state['start'])

    def _order_state(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ('seed', 'num_samples', 'batch_size', 'num_ranks')}
