"""Logged values of training: means over ranks and steps, reduced once per log interval."""

import resource
import time
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import IterTimerHook, LoggerHook, RuntimeInfoHook
from mmengine.runner import LogProcessor
from torch import Tensor

from thinktwice.registry import HOOKS, LOG_PROCESSORS


@HOOKS.register_module()
class ReducedInfoHook(RuntimeInfoHook):
    """Average losses and metrics over all ranks and the steps since the last log line.

    mmengine copies every value of every step to the host. Here they are summed on
    the device and reduced in one call per log interval. Values that are not finite
    are excluded from the mean: their steps are skipped and counted in
    ``skipped_steps``, or in ``overflow_steps`` if they lowered float16's loss scale.
    Also logged: ``data_time`` (seconds per step of waiting for data, on the slowest
    rank), ``samples_per_second`` (all ranks together), ``grad_norm`` and, on the CPU,
    ``memory`` (peak of rank 0 without loader workers, MB).
    """

    def before_train(self, runner: Any) -> None:
        """Read the log interval and reset the sums."""
        super().before_train(runner)
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._interval = loggers[0].interval if loggers else 1
        self._names: list[str] = []
        self._eta_start: tuple[float, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None
        self._steps = 0
        self._data_seconds = 0.0
        self._start = time.perf_counter()

    def before_train_epoch(self, runner: Any) -> None:
        """Exclude the time of evaluation and saving from the first interval."""
        super().before_train_epoch(runner)
        self._reset()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Add the values of the step; reduce and record them when a log line is due. Collective."""
        values = dict(outputs or {})
        if runner.optim_wrapper.grad_norm is not None:
            values['grad_norm'] = runner.optim_wrapper.grad_norm
        self._add(values)
        self._data_seconds += runner.train_loop.data_seconds
        is_last = batch_idx + 1 == len(runner.train_dataloader)
        if (batch_idx + 1) % self._interval == 0 or is_last:
            self._record(runner)
            self._reset()

    def _add(self, values: dict[str, Tensor]) -> None:
        names = list(values)
        step = torch.stack([value.detach().double().mean() for value in values.values()])
        if self._sums is None or self._counts is None or names != self._names:
            self._names = names
            self._sums = torch.zeros_like(step)
            self._counts = torch.zeros_like(step)
        is_finite = torch.isfinite(step)
        self._sums += torch.where(is_finite, step, 0.0)
        self._counts += is_finite
        self._steps += 1

    def _record(self, runner: Any) -> None:
        if self._sums is None or self._counts is None:
            return
        totals = torch.stack([self._sums, self._counts])
        all_reduce(totals, op='sum')
        seconds = time.perf_counter() - self._start
        slowest = torch.tensor([self._data_seconds, seconds], dtype=torch.float64, device=totals.device)
        all_reduce(slowest, op='max')
        data_seconds, seconds = (slowest / self._steps).tolist()
        hub = runner.message_hub
        for name, total, count in zip(self._names, *totals.tolist(), strict=True):
            hub.update_scalar(f'train/{name}', total / count if count else float('nan'))
        samples = runner.train_dataloader.batch_size * get_world_size()
        hub.update_scalar('train/time', seconds)
        hub.update_scalar('train/data_time', data_seconds)
        hub.update_scalar('train/samples_per_second', samples / seconds)
        if not torch.cuda.is_available():  # on a GPU, mmengine logs that of its tensors
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            hub.update_scalar('train/memory', kilobytes // 1024)
        if runner.optim_wrapper.bad_steps:
            hub.update_scalar('train/skipped_steps', runner.optim_wrapper.bad_steps)
        if runner.optim_wrapper.overflows:
            hub.update_scalar('train/overflow_steps', runner.optim_wrapper.overflows)
        hub.update_info('eta', self._seconds_left(runner))

    def _seconds_left(self, runner: Any) -> float:
        """Seconds to the end of training at the average speed since the first record, evaluation included."""
        now, done = time.perf_counter(), runner.train_loop.position.iteration
        if self._eta_start is None:
            self._eta_start = (self._start, done - self._steps)
        start, first = self._eta_start
        return (now - start) / max(done - first, 1) * (runner.max_iters - done)


@LOG_PROCESSORS.register_module()
class HeadlineLogProcessor(LogProcessor):
    """Leave the metrics of parts, such as ``open_loop/town/town02/ade``, out of the line of an evaluation.

    There can be a hundred of them. The files (``vis_data/scalars.json``, TensorBoard) hold all.
    """

    def get_log_after_epoch(self, *args: Any, **kwargs: Any) -> tuple[dict, str]:
        """Values of an evaluation, and its line."""
        values, line = super().get_log_after_epoch(*args, **kwargs)
        items = line.split('  ')
        return values, '  '.join(item for item in items if item.partition(':')[0].count('/') <= 2)


@HOOKS.register_module()
class EvaluationTimerHook(IterTimerHook):
    """Time evaluation steps only; ``ReducedInfoHook`` times training steps."""

    def before_train_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    before_train_iter = after_train_iter = before_train_epoch
