"""Guards of a long run: values that are not finite, hangs, unreadable samples."""

import faulthandler
import json
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank
from mmengine.hooks import Hook

from thinktwice.config.annotations import AtLeast, AtMost
from thinktwice.config.keys import Count, Natural
from thinktwice.datasets import SkippedSampleTally
from thinktwice.errors import DamagedDataError, TrainingDivergedError
from thinktwice.registry import HOOKS


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Undo and report steps whose loss or gradient was not finite; stop after several in a row.

    ``GuardedOptimWrapper`` has dropped the gradient on all ranks. What the forward pass left in the
    buffers is undone here: BatchNorm statistics would stay NaN forever. The sample names and losses of
    the step, of all its batches, are written to ``work_dir/nonfinite/``.

    Args:
        max_in_a_row: Number of such steps in a row that stops the run.
    """

    priority = 'VERY_HIGH'

    def __init__(self, max_in_a_row: Count = 5) -> None:
        self.max_in_a_row = max_in_a_row
        self._seen = 0
        self._buffers: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._samples: list[str | None] = []

    def before_train(self, runner: Any) -> None:
        """Count from what a resumed run had skipped before."""
        self._seen = runner.optim_wrapper.bad_steps
        self._buffers = [buffer for buffer in runner.bare_model.buffers() if buffer.is_floating_point()]
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Copy the buffers before the first batch of an update; record the samples of all."""
        if not runner.optim_wrapper.is_accumulating:
            self._samples = []
            if self._buffers:
                torch._foreach_copy_(self._copies, self._buffers)
        self._samples += [meta.get('sample_id') for meta in (data_batch or {}).get('metas') or []]

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Restore the buffers and report, if the step was not finite.

        Raises:
            TrainingDivergedError: It was the last of ``max_in_a_row`` such steps.
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
    """End a process that makes no progress, after writing the stacks of its threads.

    Each rank watches itself. When one hangs, the others wait for it in a collective and so write
    their stacks as well, to ``work_dir/watchdog/``. An elastic launcher or Slurm then restarts them.

    Args:
        minutes: Longest time without a finished training or evaluation step. It has to be longer
            than the slowest evaluation metric or checkpoint takes.
    """

    priority = 'VERY_HIGH'

    def __init__(self, minutes: Annotated[float, AtLeast(0.001), AtMost(1e6)] = 30.0) -> None:
        self.seconds = 60 * minutes
        self._file: Any = None
        self._last_step = 0.0
        self._is_over = threading.Event()
        self._announcer: threading.Thread | None = None

    def _rearm(self) -> None:
        self._last_step = time.monotonic()
        if self._file is not None:
            # its thread is written in C: it also runs while Python is blocked in a collective
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._file)

    def before_train(self, runner: Any) -> None:
        """Open the file for the stacks and start the timer."""
        folder = Path(runner.work_dir) / 'watchdog'
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'stacks_rank_{get_rank()}.txt'
        self._file = open(path, 'a')  # noqa: SIM115 held for the whole run, kept by the next attempt
        self._file.write(f'run started {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        self._file.flush()
        self._is_over.clear()
        self._rearm()
        self._announcer = threading.Thread(target=self._announce, args=(path, get_rank()), daemon=True)
        self._announcer.start()

    def _announce(self, path: Path, rank: int) -> None:
        """Announce the end on the terminal; the dump itself prints nothing there."""
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
        """Restart the timer."""
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

    def clean_up(self, runner: Any) -> None:
        """Stop the timer, after an error too."""
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file = None
        if self._announcer is not None:
            self._is_over.set()
            self._announcer.join()
            self._announcer = None


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Count samples that could not be read; stop training on all ranks when there are too many.

    The samples of an epoch on all ranks are judged together, every ``interval`` steps and at its end. An
    evaluation leaves unreadable samples out and goes on.

    Args:
        max_share: Share of unreadable samples above which training stops.
        min_skips: Training does not stop for fewer unreadable samples than this. Early in an epoch a few
            are a large share by chance: with 0.1% of the samples damaged, two of the first hundred are
            with a probability of 0.5%, ten of the first thousand with 1e-7.
        interval: Steps between two judgements, the same on all ranks.
    """

    def __init__(self, max_share: float = 0.01, min_skips: Natural = 10, interval: Count = 50) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must be 0 ... 1, got {max_share}')
        self.max_share = max_share
        self.min_skips = min_skips
        self.interval = interval
        self.tally = SkippedSampleTally()
        self.evaluation_tally = SkippedSampleTally()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the skipped samples of the batch."""
        self.tally.update((data_batch or {}).get('metas') or [])
        if (batch_idx + 1) % self.interval == 0:
            self._check()

    def after_train_epoch(self, runner: Any) -> None:
        """Log the count of this rank, judge that of all and start the next."""
        self._report(runner, self.tally, 'skipped_samples', 'another one was read in the place of each')
        self._check()
        self.tally.reset()

    def _check(self) -> None:
        """Stop a run that reads too many unusable samples. Collective.

        Raises:
            DamagedDataError: On all ranks; the message names some files.
        """
        counts = torch.tensor([self.tally.num_samples, self.tally.num_skips])
        all_reduce(counts)
        samples, skips = counts.tolist()
        share = skips / max(samples + skips, 1)
        if skips < self.min_skips or share <= self.max_share:
            return
        examples = [file for files in all_gather_object(self.tally.examples()) for file in files]
        listed = '; '.join(list(dict.fromkeys(examples))[:3])
        raise DamagedDataError(
            f'{skips} of {samples + skips} samples of this epoch could not be used ({share:.1%}, more than '
            f'the tolerated {self.max_share:.1%}); for example {listed}. Check the data '
            'with tools/check_dataset.py (--repair keeps damaged frames out), or raise max_share of '
            'SkippedSamplesHook'
        )

    def before_val_epoch(self, runner: Any) -> None:
        """Start the count of an evaluation."""
        self.evaluation_tally.reset()

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the skipped samples of the batch."""
        self.evaluation_tally.update((data_batch or {}).get('metas') or [])

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Log what the evaluation of this rank left out."""
        self._report(runner, self.evaluation_tally, 'skipped_evaluation_samples', 'the metrics go without')

    def _report(self, runner: Any, tally: SkippedSampleTally, name: str, consequence: str) -> None:
        if tally.num_skips or tally.num_unknown_commands:
            path = Path(runner.log_dir) / f'{name}_rank_{get_rank()}.jsonl'
            runner.logger.warning(f'{tally.summary()}; {consequence}: see {path}')
            tally.write(path)
