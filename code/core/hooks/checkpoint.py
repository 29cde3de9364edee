"""When to save a checkpoint and which ones to keep."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from thinktwice.checkpoint import run_folder
from thinktwice.config.annotations import AtLeast
from thinktwice.config.keys import Count, Natural
from thinktwice.distributed.collectives import is_asked_by_any, on_rank_0
from thinktwice.errors import ConfigError
from thinktwice.files import link_atomically
from thinktwice.registry import HOOKS


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):
    """Save after epochs, iterations or minutes; keep the last few and the best.

    A file is complete before its name appears, and ``last_checkpoint`` is written
    after it. ``epoch_N.pth`` is saved before the evaluation of its epoch, so a
    failing evaluation costs no training. With gradient accumulation a save waits
    for the next update. A new run moves the checkpoints of an earlier run aside.

    Args:
        interval: Epochs between two checkpoints, 0 for none by epochs; the last is always saved.
        interval_iters: Iterations between two checkpoints, None for none by iterations.
        interval_minutes: Minutes of wall clock between two checkpoints, None for none by time.
        keep_last: Number of ``epoch_N.pth`` files to keep, -1 for all.
        keep_last_iters: Number of ``iter_N.pth`` files to keep, -1 for all.
        keep_best: Name of the evaluation metric whose best checkpoint is kept as ``best_<metric>.pth``,
            or None. Where the file system allows, this is a hard link and takes no space while the
            checkpoint of its epoch exists.
        rule: ``'less'`` or ``'greater'``: which value of that metric is better.
        out_dir: Folder of the files, None for the work dir. ``--resume`` looks there first, then in the
            work dir.

    Attributes:
        best_score: Best value of the metric ``keep_best`` so far, None before the first evaluation.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        interval: Natural = 1,
        interval_iters: Count | None = None,
        interval_minutes: Annotated[float, AtLeast(0)] | None = None,
        keep_last: int = 3,
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
        self._saved: Path | None = None
        self._last_saved_iteration = -1
        self._last_saved_time = time.monotonic()

    def folder(self, runner: Any) -> Path:
        """Folder of the checkpoints."""
        return Path(self.out_dir or runner.work_dir)

    def before_train(self, runner: Any) -> None:
        """Prepare the folder, find the best score so far and start the clock. Collective.

        Raises:
            ConfigError: The evaluation has no metric ``keep_best``.
        """
        self._check_keep_best(runner)
        self._saved = None
        self._last_saved_time = time.monotonic()
        self._last_saved_iteration = runner.train_loop.position.iteration
        barrier()  # other ranks may still be reading the file of --load-from
        on_rank_0(lambda: self._prepare_folder(runner))
        score: list[float | None] = [None]
        if self.keep_best is not None and is_main_process():
            score[0] = run_folder.read_best_score(self.folder(runner), self.keep_best)
        broadcast_object_list(score)
        self.best_score = score[0]

    def _check_keep_best(self, runner: Any) -> None:
        """Check the name of the metric before training, as far as the metrics list their names.

        Names of parts, such as ``open_loop/coarse/ade``, depend on the data.
        """
        if self.keep_best is None or runner._val_loop is None:
            return
        metrics = runner.val_loop.evaluator.metrics
        listing = [metric for metric in metrics if hasattr(metric, 'metric_names')]
        prefix, _, name = self.keep_best.partition('/')
        is_without_prefix = not name and all(metric.prefix for metric in metrics)
        is_of_none = bool(name) and prefix not in [metric.prefix or prefix for metric in metrics]
        is_listed = '/' not in name and (is_without_prefix or prefix in [m.prefix for m in listing])
        if is_of_none or (listing and is_listed):
            others = [f'{m.prefix}/...' for m in metrics if m not in listing and m.prefix]
            self._require_metric([f'{m.prefix}/{n}' for m in listing for n in m.metric_names] + others)

    def _require_metric(self, names: list[str]) -> None:
        if self.keep_best not in names:
            raise ConfigError(
                f'default_hooks.checkpoint.keep_best is {self.keep_best!r}, but the evaluation gives '
                f'{", ".join(sorted(name for name in names if name.count("/") < 2))}'
            )

    def _prepare_folder(self, runner: Any) -> None:
        """Remove the temporary files of killed runs; if the run is new, move an earlier one aside.

        The earlier run's checkpoints would be pruned, or resumed, as if they were this run's.
        """
        folder = self.folder(runner)
        run_folder.remove_leftovers(folder)
        if runner.train_loop.position.iteration == 0 and (target := run_folder.move_run_aside(folder)):
            newest = run_folder.named_by_pointer(target) or target / 'epoch_N.pth'
            runner.logger.warning(
                f'{folder} held checkpoints of an earlier run, and this is a new run: they were moved to '
                f'{target}. To resume that run instead, start again with --resume-from {newest}.'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save if iterations or minutes ask for it. Collective."""
        iteration = runner.train_loop.position.iteration
        if self.interval_iters and iteration % self.interval_iters == 0:
            self._is_due = True
        if self.interval_minutes and self._are_over(self.interval_minutes):
            self._is_due = True
        at_epoch_end = runner.train_loop.is_last_batch_of_epoch
        if self._is_due and not at_epoch_end and not runner.optim_wrapper.is_accumulating:
            self.save(runner)

    def _are_over(self, minutes: float) -> bool:
        """Whether time is up by the clock of rank 0: all ranks have to save at the same step. Collective."""
        is_over = time.monotonic() - self._last_saved_time > 60 * minutes
        return is_asked_by_any(is_main_process() and is_over)

    def after_train_epoch(self, runner: Any) -> None:
        """Save if epochs ask for it, if a save waited for the epoch, or if training ends. Collective."""
        position = runner.train_loop.position
        is_last = position.epoch >= runner.max_epochs or position.iteration >= runner.max_iters
        on_interval = self.interval > 0 and position.epoch % self.interval == 0 and not position.batches_done
        if self._is_due or on_interval or is_last:
            self.save(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the checkpoint if the watched metric is the best so far. Collective.

        Raises:
            ConfigError: The evaluation gives no metric ``keep_best``.
        """
        if self.keep_best is None or isinstance(runner._train_loop, dict):
            return
        metrics = metrics or {}
        self._require_metric(list(metrics))
        score = float(metrics[self.keep_best])
        if not math.isfinite(score) or not self._is_better(score):
            return
        self.best_score = score
        best = run_folder.best_checkpoint(self.folder(runner), self.keep_best)
        if not self._link_saved(runner, best):
            runner.save_checkpoint(str(best.parent), best.name)
        # after the checkpoint: an interruption in between must not leave a score that no checkpoint has
        on_rank_0(lambda: run_folder.write_best_score(best.parent, str(self.keep_best), score))
        runner.logger.info(f'best {self.keep_best} so far: {score:.4f}, saved as {best.name}')

    def _is_better(self, score: float) -> bool:
        if self.best_score is None:
            return True
        return score < self.best_score if self.rule == 'less' else score > self.best_score

    def _link_saved(self, runner: Any, best: Path) -> bool:
        """Make ``best`` a hard link to the checkpoint of the present state, if there is one. Collective."""
        is_linked = False
        if self._saved is not None and runner.train_loop.position.iteration == self._last_saved_iteration:
            is_linked = is_main_process() and link_atomically(self._saved, best)
        return is_asked_by_any(is_linked)

    def save(self, runner: Any) -> None:
        """Save the present state now, unless it is saved already; rank 0 writes. Collective."""
        position = runner.train_loop.position
        self._is_due = False
        self._last_saved_time = time.monotonic()
        if position.iteration == self._last_saved_iteration:
            return
        self._last_saved_iteration = position.iteration
        at_epoch = position.batches_done == 0
        name = f'epoch_{position.epoch}.pth' if at_epoch else f'iter_{position.iteration}.pth'
        self._saved = self.folder(runner) / name
        runner.logger.info(f'saving checkpoint {name}')
        runner.save_checkpoint(str(self._saved.parent), name)
        on_rank_0(lambda: self._point_and_prune(runner, name))

    def _point_and_prune(self, runner: Any, newest: str) -> None:
        folder = self.folder(runner)
        run_folder.write_pointer(folder, newest)
        if removed := run_folder.prune_checkpoints(folder, self.keep, newest):
            runner.logger.info(f'removed {", ".join(removed)}')
