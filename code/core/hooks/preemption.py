"""Leave in good order when the scheduler asks for it."""

import signal
import threading
from typing import Any

from mmengine.hooks import Hook

from thinktwice.core.hooks.checkpoint import AtomicCheckpointHook
from thinktwice.core.processes import is_asked_by_any
from thinktwice.registry import HOOKS

PREEMPTED_EXIT_CODE = 75
"""EX_TEMPFAIL: the run was stopped by a signal, is saved, and can be resumed."""


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal to any process, finish the step, save a checkpoint and stop all processes.

    ``train.py`` then ends with exit code 75. A second signal of the same kind
    ends the process at once.

    Args:
        signals: Names of the signals to heed.
    """

    priority = 'LOWEST'

    def __init__(self, signals: tuple[str, ...] = ('SIGTERM', 'SIGUSR1')) -> None:
        self.signals = [signal.Signals[name] for name in signals]
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Take over the signals; only Python's main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Ask all processes whether one was signalled; if so save and stop. Collective."""
        if not is_asked_by_any(self._received is not None):
            return
        self._received = self._received or signal.SIGTERM
        if runner.optim_wrapper.is_accumulating:
            return
        runner.logger.warning('asked to stop by a signal: saving a checkpoint and leaving')
        runner.preempted = True
        runner.train_loop.stop_training = True
        if not runner.train_loop.is_last_batch_of_epoch:
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Save at the end of an epoch, where schedules by epochs have been stepped."""
        if getattr(runner, 'preempted', False):
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save(runner)

    def after_train(self, runner: Any) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
