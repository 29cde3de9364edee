"""Guards of a long run: values that are not finite, hangs, unreadable samples."""

import faulthandler
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from thinktwice.datasets import SkippedSampleTally
from thinktwice.errors import TrainingDivergedError
from thinktwice.registry import HOOKS


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Undo and report steps whose loss or gradient was not finite; stop when they do not end.

    ``GuardedOptimWrapper`` has dropped the gradient on all processes. What the
    forward pass left in the buffers (BatchNorm statistics turn NaN for good) is
    put back here. Of each such step the sample names, those of all its batches,
    are written to ``work_dir/nonfinite/``.

    Args:
        max_in_a_row: Bad steps in a row after which the run stops.
    """

    priority = 'VERY_HIGH'

    def __init__(self, max_in_a_row: int = 5) -> None:
        self.max_in_a_row = max_in_a_row
        self._seen = 0
        self._buffers: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._samples: list[str | None] = []

    def before_train(self, runner: Any) -> None:
        """Note how many steps a resumed run had skipped before."""
        self._seen = runner.optim_wrapper.bad_steps
        self._buffers = [buffer for buffer in runner.bare_model.buffers() if buffer.is_floating_point()]
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Copy the buffers as they are before the first batch of an update; note the samples."""
        if not runner.optim_wrapper.is_accumulating:
            self._samples = []
            if self._buffers:
                torch._foreach_copy_(self._copies, self._buffers)
        self._samples += [meta.get('sample_id') for meta in (data_batch or {}).get('metas') or []]

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Restore buffers and report, if the step was bad.

        Raises:
            TrainingDivergedError: ``max_in_a_row`` bad steps came one after the other.
        """
        wrapper = runner.optim_wrapper
        if wrapper.bad_steps == self._seen:
            return
        self._seen = wrapper.bad_steps
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._copies)
        path = self._dump(runner, outputs or {})
        message = (
            f'step {runner.iter + 1} was skipped: its loss or gradient is not finite '
            f'({wrapper.bad_steps} skipped in this run); samples and losses are in {path}'
        )
        runner.logger.warning(message)
        if wrapper.bad_steps_in_a_row >= self.max_in_a_row:
            raise TrainingDivergedError(
                f'{wrapper.bad_steps_in_a_row} steps in a row were not finite, the last at iteration '
                f'{runner.iter + 1}; samples and losses are in {path.parent}. Lower the learning rate, check '
                'these samples, or resume from an earlier checkpoint.'
            )

    def _dump(self, runner: Any, outputs: dict) -> Path:
        path = Path(runner.work_dir) / 'nonfinite' / f'iter_{runner.iter + 1}_rank_{get_rank()}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        content = dict(
            iteration=runner.iter + 1,
            samples=self._samples,
            values={name: str(float(torch.as_tensor(value).detach())) for name, value in outputs.items()},
            grad_norm=str(float(runner.optim_wrapper.grad_norm)),
        )
        path.write_text(json.dumps(content, indent=1))
        return path


@HOOKS.register_module()
class WatchdogHook(Hook):
    """End a process that makes no progress, after writing where each of its threads stands.

    Every process watches itself; when one hangs, the others wait for it and so
    write their stacks as well, to ``work_dir/watchdog/``. An elastic launcher or
    Slurm then restarts them.

    Args:
        minutes: Longest time without a finished training or evaluation step. Choose
            it longer than the slowest evaluation metric or checkpoint takes.
    """

    priority = 'VERY_HIGH'

    def __init__(self, minutes: float = 30.0) -> None:
        self.seconds = 60 * minutes
        self._file: Any = None
        self._last_step = 0.0
        self._is_over = threading.Event()

    def _rearm(self) -> None:
        self._last_step = time.monotonic()
        if self._file is not None:
            # a thread of its own, in C: it works where Python hangs inside a collective operation
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._file)

    def before_train(self, runner: Any) -> None:
        """Open the file for the stacks and start to watch."""
        folder = Path(runner.work_dir) / 'watchdog'
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'stacks_rank_{get_rank()}.txt'
        self._file = open(path, 'a')  # noqa: SIM115 held for the whole run, kept by the next attempt
        self._file.write(f'run started {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        self._file.flush()
        self._is_over.clear()
        self._rearm()
        threading.Thread(target=self._announce, args=(path, get_rank()), daemon=True).start()

    def _announce(self, path: Path, rank: int) -> None:
        """Say on the terminal what is about to happen; the dump itself says nothing there."""
        period = min(0.05 * self.seconds, 30.0)
        while not self._is_over.wait(period):
            waited = time.monotonic() - self._last_step
            if waited > self.seconds - 2 * period:
                sys.stderr.write(
                    f'rank {rank}: no step finished for {waited:.0f} s; unless one does, this process ends '
                    f'after {self.seconds:.0f} s and writes the stacks of its threads to {path}\n'
                )
                sys.stderr.flush()
                return

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock anew."""
        self._rearm()

    def _after_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        self._rearm()

    def after_train(self, runner: Any) -> None:
        """Stop watching."""
        self._is_over.set()
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None:
            self._file.close()
            self._file = None


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Count samples that could not be read, and say so at the end of each epoch and evaluation.

    Args:
        max_share: Share of unreadable samples above which training stops: after 100 samples of an
            epoch, or at its end. An evaluation leaves them out and goes on.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        self.tally = SkippedSampleTally(max_share=max_share)
        self.evaluation_tally = SkippedSampleTally(max_share=1.0)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the batch's skipped samples; too many of them are an error."""
        self.tally.update((data_batch or {}).get('metas') or [])
        self.tally.check()

    def after_train_epoch(self, runner: Any) -> None:
        """Log this process' count, judge it and start anew."""
        self._report(runner, self.tally, 'skipped_samples', 'another one was read in the place of each')
        self.tally.check(is_complete=True)
        self.tally.reset()

    def before_val_epoch(self, runner: Any) -> None:
        """Start the count of an evaluation."""
        self.evaluation_tally.reset()

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the batch's skipped samples."""
        self.evaluation_tally.update((data_batch or {}).get('metas') or [])

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Log what the evaluation of this process left out."""
        self._report(runner, self.evaluation_tally, 'skipped_evaluation_samples', 'the metrics go without')

    def _report(self, runner: Any, tally: SkippedSampleTally, name: str, consequence: str) -> None:
        if tally.num_skips or tally.num_unknown_commands:
            path = Path(runner.log_dir) / f'{name}_rank_{get_rank()}.jsonl'
            runner.logger.warning(f'{tally.summary()}; {consequence}: see {path}')
            tally.write(path)
