"""Epoch-based training loop that resumes in the middle of an epoch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop

from thinktwice.registry import LOOPS


@dataclass(frozen=True)
class TrainPosition:
    """Position of a run between two steps.

    Attributes:
        epoch: Epochs completed.
        iteration: Iterations completed in the whole run.
        batches_done: Batches completed in the current epoch.
        evaluation_is_due: Whether an evaluation has to run before the next step.
    """

    epoch: int = 0
    iteration: int = 0
    batches_done: int = 0
    evaluation_is_due: bool = False


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """Train by epochs; the position of a run is (epoch, batches done in it).

    mmengine's ``EpochBasedTrainLoop`` restarts a resumed epoch, so samples are
    seen twice; its ``IterBasedTrainLoop`` loads all earlier batches again. This
    loop sets where the sampler starts, so no sample is loaded twice. An evaluation
    that was due when the run was interrupted runs first.

    Args:
        runner: The runner that owns the loop.
        dataloader: Loader of the training set or its config.
        max_epochs: Epochs to train.
        max_iters: Stop after this number of iterations even if epochs are left; None for no limit.
        val_begin: First epoch (from 1) after which to evaluate.
        val_interval: Epochs between two evaluations; the end of training is always evaluated.

    Attributes:
        data_seconds: Seconds that the loop waited for the current batch.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int,
        max_iters: int | None = None,
        val_begin: int = 1,
        val_interval: int = 1,
    ) -> None:
        for name, value in (('max_epochs', max_epochs), ('val_interval', val_interval)):
            if value < 1:
                raise ValueError(f'train_cfg.{name} must be at least 1, got {value}')
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval)
        if len(self.dataloader) == 0:
            raise ValueError(
                f'the training set has no full batch: {len(self.dataloader.dataset)} samples, batch size '
                f'{self.dataloader.batch_size}. Record more frames, or lower train_dataloader.batch_size.'
            )
        self._limit = max_iters
        self._batches_done = 0
        self._iterations_done = 0
        self._last_evaluated_iteration = 0
        self._stage, self._completed = 'step', set[str]()
        self.data_seconds = 0.0
        self.restore(TrainPosition())

    @property
    def position(self) -> TrainPosition:
        """Position of the run; ``after_train_iter`` is the first hook that sees a batch counted."""
        epoch, batches_done = self._epoch, self._batches_done
        if batches_done >= len(self.dataloader):
            epoch, batches_done = epoch + 1, 0
        is_finished = epoch >= self._max_epochs or self._iterations_done >= self._max_iters
        on_interval = batches_done == 0 and epoch >= self.val_begin and epoch % self.val_interval == 0
        is_new = self._iterations_done > self._last_evaluated_iteration
        is_due = is_new and (on_interval or is_finished) and self.runner._val_loop is not None
        return TrainPosition(epoch, self._iterations_done, batches_done, is_due)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs, or ``max_iters`` iterations, are done."""
        return self._epoch >= self._max_epochs or self._iterations_done >= self._max_iters

    @property
    def is_last_batch_of_epoch(self) -> bool:
        """Whether the batch just trained on was the last of its epoch, or of the run."""
        return self._batches_done >= len(self.dataloader) or self._iterations_done >= self._max_iters

    def restore(self, position: TrainPosition) -> None:
        """Continue from ``position``.

        The total number of iterations is the number done plus the number left, since earlier epochs
        may have had another number of batches, with another world size.
        """
        left = (self._max_epochs - position.epoch) * len(self.dataloader) - position.batches_done
        self._max_iters = position.iteration + max(left, 0)
        if self._limit is not None:
            self._max_iters = min(self._max_iters, self._limit)
        self._epoch = position.epoch
        self._iter = self._iterations_done = position.iteration
        self._batches_done = position.batches_done
        self._last_evaluated_iteration = position.iteration - int(position.evaluation_is_due)

    def run(self) -> torch.nn.Module:
        """Train to the end, or until a hook sets ``stop_training``."""
        try:
            self.runner.call_hook('before_train')
            self._evaluate_if_due()
            while not self.is_finished and not self.stop_training:
                self.run_epoch()
                if not self.stop_training:
                    self._evaluate_if_due()
            self.runner.call_hook('after_train')
        finally:
            # mmengine has no stage that is reached after an error, too: here hooks end the threads and
            # give back the signals that they took in before_train
            self.runner.call_hook('clean_up')
        return self.runner.model

    def describe_failure(self) -> str | None:
        """When an error came, if it came so early that its cause is the config or the data; else None."""
        if self._stage in self._completed:
            return None
        source = self.runner.resumed_from
        after = f' after resuming from {source}' if source else ''
        return f'failed before the first {self._stage} was done{after}'

    def run_epoch(self) -> None:
        """Train on the remaining batches of the current epoch."""
        # before the loader is iterated: its workers ask the sampler for indices at once
        self._place_sampler()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, data_batch in enumerate(self._timed_batches(), start=self._batches_done):
            self.run_iter(index, data_batch)
            if self.stop_training or self._iterations_done >= self._max_iters:
                break
        if self.is_last_batch_of_epoch:
            self.runner.call_hook('after_train_epoch')
        if self._batches_done >= len(self.dataloader):
            self._epoch += 1
            self._batches_done = 0

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Train on one batch.

        Args:
            idx: Index of the batch in its epoch.
            data_batch: Output of the collate function.
        """
        left = len(self.dataloader) - idx
        batches = idx + min(left, self._max_iters - self._iterations_done)
        self.runner.optim_wrapper.place_batch(idx, batches)
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self._batches_done = idx + 1
        self._iterations_done += 1
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1
        self._completed.add(self._stage)

    def _timed_batches(self) -> Iterator[dict]:
        """Iterate over the loader, setting ``data_seconds`` for each batch."""
        batches = iter(self.dataloader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.data_seconds = time.perf_counter() - start
            yield batch

    def _place_sampler(self) -> None:
        sampler = self.dataloader.sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(self._epoch)
        if hasattr(sampler, 'set_start'):
            sampler.set_start(self._batches_done * self.dataloader.batch_size)
        elif self._batches_done:
            raise ValueError(
                f'train_dataloader.sampler is a {type(sampler).__name__}, which cannot start in the middle '
                'of an epoch; resume from a checkpoint of an epoch, or use TrainSampler'
            )

    def _evaluate_if_due(self) -> None:
        if self.position.evaluation_is_due:
            self._stage = 'evaluation'
            self.runner.val_loop.run()
            self._completed.add(self._stage)
            self._stage = 'step'
            self._last_evaluated_iteration = self._iterations_done
