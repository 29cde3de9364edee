"""Profile of some training steps."""

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch.profiler import ProfilerActivity

from thinktwice.registry import HOOKS
from thinktwice.tables import format_table

#: operators and calls of the runtime after which the host knows a result of the GPU
WAITS = ('aten::_local_scalar_dense', 'aten::nonzero', 'cudaStreamSynchronize', 'cudaDeviceSynchronize')
TABLE_ROWS = 10


@HOOKS.register_module()
class ProfileHook(Hook):
    """Write a trace of some steps to ``work_dir/profile/`` and log where their time went.

    The trace opens in TensorBoard (with ``torch-tb-profiler``), in chrome://tracing and in Perfetto. The
    profiler itself lengthens the steps.

    Args:
        steps: Steps to profile.
        warmup: Steps before them.
    """

    def __init__(self, steps: int = 5, warmup: int = 3) -> None:
        self.steps = steps
        self.warmup = warmup
        self._done = 0
        self._profiler: torch.profiler.profile | None = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start the profiler after the warm-up."""
        if self._done == self.warmup:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write the trace and log the table after the last step."""
        self._done += 1
        if self._profiler is None or self._done < self.warmup + self.steps:
            return
        self._profiler.stop()
        path = Path(runner.work_dir) / 'profile' / f'rank_{get_rank()}.pt.trace.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(path))
        events = self._profiler.key_averages()
        self._profiler = None
        runner.logger.info(f'profile of {self.steps} steps, trace in {path}\n{_summary(events, self.steps)}')


def _summary(events: Any, steps: int) -> str:
    """Table of the operators with the longest time of their own, and how often the host waits, per step."""
    key = 'self_device_time_total' if torch.cuda.is_available() else 'self_cpu_time_total'
    total = sum(getattr(event, key) for event in events) or 1
    longest = sorted(events, key=lambda event: -getattr(event, key))[:TABLE_ROWS]
    rows = [
        (
            event.key,
            f'{event.count / steps:.0f}',
            f'{getattr(event, key) / steps / 1e3:.2f}',
            f'{getattr(event, key) / total:.1%}',
        )
        for event in longest
    ]
    waits = {event.key: event.count / steps for event in events if event.key in WAITS}
    listed = ', '.join(f'{name} {count:.0f}' for name, count in sorted(waits.items())) or 'none'
    return f'{format_table(("operator", "calls", "ms", "share"), rows)}\nhost waits per step: {listed}'
