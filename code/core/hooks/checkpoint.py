"""When to save a checkpoint and which ones to keep."""

import math
import time
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook

from thinktwice.checkpoint import file as checkpoint_io
from thinktwice.distributed.collectives import is_asked_by_any, on_rank_0
from thinktwice.registry import HOOKS


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):
    """Save after epochs, iterations or minutes; keep the last few and the best.

    A file is complete before its name appears, and ``last_checkpoint`` moves
    after it. ``epoch_N.pth`` is saved before the evaluation of its epoch, so a
    failing evaluation costs no training. With gradient accumulation a save waits
    for the next update. A new run moves what an earlier one left in the folder aside.

    Args:
        interval: Epochs between two checkpoints, 0 for none by epochs; the last is always saved.
        interval_iters: Iterations between two checkpoints, None for none by iterations.
        interval_minutes: Minutes of wall clock between two checkpoints, None for none by time.
        keep_last: Number of ``epoch_N.pth`` files to keep, -1 for all.
        keep_last_iters: Number of ``iter_N.pth`` files to keep, -1 for all.
        keep_best: Name of the evaluation metric whose best value is kept as ``best_<metric>.pth``,
            or None.
        rule: ``'less'`` or ``'greater'``: which value of that metric is better.
        out_dir: Folder of the files, None for the work dir. ``--resume`` looks there first, then in the
            work dir.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        interval: int = 1,
        interval_iters: int | None = None,
        interval_minutes: float | None = None,
        keep_last: int = -1,
        keep_last_iters: int = 2,
        keep_best: str | None = None,
        rule: str = 'less',
        out_dir: str | None = None,
    ) -> None:
        if rule not in ('less', 'greater'):
            raise ValueError(f"checkpoint rule must be 'less' or 'greater', got {rule!r}")
        self.interval = interval
        self.interval_iters = interval_iters
        self.interval_minutes = interval_minutes
        self.keep = {'epoch': keep_last, 'iter': keep_last_iters}
        self.keep_best = keep_best
        self.rule = rule
        self.out_dir = out_dir
        self.best_score: float | None = None
        self._is_due = False
        self._last_saved_iteration = -1
        self._last_saved_time = time.monotonic()

    def state_dict(self) -> dict:
        """Best score so far, to be saved with the checkpoint."""
        return dict(best_score=self.best_score)

    def load_state_dict(self, state: dict) -> None:
        """Continue with the best score of a resumed run."""
        self.best_score = state.get('best_score')

    def folder(self, runner: Any) -> Path:
        """Folder of the checkpoints."""
        return Path(self.out_dir or runner.work_dir)

    def before_train(self, runner: Any) -> None:
        """Make room for the files of this run and start the clock. Collective."""
        self._last_saved_time = time.monotonic()
        self._last_saved_iteration = runner.train_loop.position.iteration
        barrier()  # others may still be reading the file that --load-from names
        on_rank_0(lambda: self._make_room(runner))

    def _make_room(self, runner: Any) -> None:
        """Remove half-written files of killed runs; a new run also moves the files of an earlier one aside.

        They would be pruned as if they were its own, or be resumed in their place.
        """
        folder = self.folder(runner)
        checkpoint_io.remove_temporary_files(folder)
        if runner.train_loop.position.iteration == 0 and (target := checkpoint_io.move_run_aside(folder)):
            newest = checkpoint_io.named_by_pointer(target) or target / 'epoch_N.pth'
            runner.logger.warning(
                f'{folder} held checkpoints of an earlier run, and this run starts anew: they were moved to '
                f'{target}. To continue that run instead, start again with --resume-from {newest}; '
                '--resume continues where the checkpoints lie.'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save if iterations or minutes ask for it."""
        iteration = runner.train_loop.position.iteration
        if self.interval_iters and iteration % self.interval_iters == 0:
            self._is_due = True
        if self.interval_minutes and self._are_over(self.interval_minutes):
            self._is_due = True
        at_epoch_end = runner.train_loop.is_last_batch_of_epoch
        if self._is_due and not at_epoch_end and not runner.optim_wrapper.is_accumulating:
            self.save(runner)

    def _are_over(self, minutes: float) -> bool:
        """Whether it is time by the first process' clock: all have to save at the same step. Collective."""
        is_over = time.monotonic() - self._last_saved_time > 60 * minutes
        return is_asked_by_any(is_main_process() and is_over)

    def after_train_epoch(self, runner: Any) -> None:
        """Save if epochs ask for it, or a save was put off to here, or training is at its end."""
        position = runner.train_loop.position
        is_last = position.epoch >= runner.max_epochs or position.iteration >= runner.max_iters
        on_interval = self.interval > 0 and position.epoch % self.interval == 0 and not position.batches_done
        if self._is_due or on_interval or is_last:
            self.save(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the weights if the watched metric is the best so far."""
        if self.keep_best is None or isinstance(runner._train_loop, dict):
            return
        metrics = metrics or {}
        if self.keep_best not in metrics:
            raise ValueError(
                f'checkpoint.keep_best is {self.keep_best!r}, but the evaluation gives '
                f'{", ".join(sorted(metrics))}'
            )
        score = float(metrics[self.keep_best])
        if not math.isfinite(score) or not self._is_better(score):
            return
        self.best_score = score
        name = f'best_{self.keep_best.replace("/", "_")}.pth'
        runner.save_checkpoint(str(self.folder(runner)), name)
        runner.logger.info(f'best {self.keep_best} so far: {score:.4f}, saved as {name}')

    def _is_better(self, score: float) -> bool:
        if self.best_score is None:
            return True
        return score < self.best_score if self.rule == 'less' else score > self.best_score

    def save(self, runner: Any) -> None:
        """Save the present state now, unless it is saved already; the first process writes. Collective."""
        position = runner.train_loop.position
        self._is_due = False
        self._last_saved_time = time.monotonic()
        if position.iteration == self._last_saved_iteration:
            return
        self._last_saved_iteration = position.iteration
        at_epoch = position.batches_done == 0
        name = f'epoch_{position.epoch}.pth' if at_epoch else f'iter_{position.iteration}.pth'
        runner.logger.info(f'saving checkpoint {name}')
        runner.save_checkpoint(str(self.folder(runner)), name)
        on_rank_0(lambda: self._point_and_prune(runner, name))

    def _point_and_prune(self, runner: Any, newest: str) -> None:
        folder = self.folder(runner)
        checkpoint_io.write_pointer(folder, newest)
        for kind, keep in self.keep.items():
            if keep < 0:
                continue
            files = [(int(path.stem.split('_')[1]), path) for path in folder.glob(f'{kind}_*.pth')]
            for _, path in sorted(files, reverse=True)[max(keep, 0) :]:
                if path.name != newest:
                    path.unlink(missing_ok=True)
