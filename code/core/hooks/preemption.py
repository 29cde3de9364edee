"""Save and stop when the scheduler sends a signal."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook

from thinktwice.core.hooks.checkpoint import AtomicCheckpointHook
from thinktwice.distributed.collectives import is_asked_by_any
from thinktwice.errors import PREEMPTED_EXIT_CODE, ConfigError
from thinktwice.registry import HOOKS

SIGNALS = ('SIGTERM', 'SIGUSR1')
REPEAT_SECONDS = 10.0
"""A signal that comes so soon after the first is the same request: schedulers send it by several ways."""


@contextmanager
def leave_on_signals(signals: Sequence[str] = SIGNALS) -> Iterator[None]:
    """End the process with ``PREEMPTED_EXIT_CODE`` on a signal before ``PreemptionHook`` takes over.

    Args:
        signals: Names of the signals.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one can set handlers
        yield
        return
    numbers = [signal.Signals[name] for name in signals]
    previous = {number: signal.signal(number, _leave_unsaved) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_unsaved(number: int, frame: Any) -> None:
    # no exception, which a library may swallow, and no print, which the signal may have interrupted
    name = signal.Signals(number).name
    os.write(2, f'train: asked to stop by {name} before training: nothing to save yet\n'.encode())
    os._exit(PREEMPTED_EXIT_CODE)


def _end_on_signals(numbers: Sequence[signal.Signals]) -> None:
    """Restore the default action; ``signal.signal`` works in the main thread only, which may hang."""
    for number in numbers:
        ctypes.CDLL(None).signal(int(number), None)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal to any rank, finish the step, save a checkpoint and stop all ranks.

    ``train.py`` then ends with exit code 75. Any of the signals that comes more than
    ``REPEAT_SECONDS`` after the first ends the process at once.

    Args:
        signals: Names of the signals.

    Raises:
        ConfigError: There is no such signal.
    """

    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = SIGNALS) -> None:
        if unknown := [name for name in signals if name not in signal.Signals.__members__]:
            raise ConfigError(f'PreemptionHook: signals has {unknown[0]!r}, expected names such as {SIGNALS}')
        self.signals = [signal.Signals[name] for name in signals]
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._repeats: threading.Timer | None = None

    def before_train(self, runner: Any) -> None:
        """Install the handlers; only Python's main thread can."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
            self._repeats = threading.Timer(REPEAT_SECONDS, _end_on_signals, [list(self._previous)])
            self._repeats.daemon = True
            self._repeats.start()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and stop if any rank has received a signal. Collective."""
        if not is_asked_by_any(self._received is not None):
            return
        if self._received is None:  # on another rank
            self._on_signal(signal.SIGTERM, None)
        if runner.optim_wrapper.is_accumulating:
            return
        runner.logger.warning('asked to stop by a signal: saving a checkpoint and stopping')
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

    def clean_up(self, runner: Any) -> None:
        """Restore the handlers, after an error too."""
        if self._repeats is not None:
            self._repeats.cancel()
            self._repeats.join()
            self._repeats = None
        for number, handler in self._previous.items():
            # the rest of the command takes a moment, and "nothing to save yet" would be wrong
            signal.signal(number, signal.SIG_IGN if handler is _leave_unsaved else handler)
        self._previous.clear()
