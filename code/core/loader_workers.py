"""Loader workers when a scheduler signals the whole process group, and where resources run out."""

import errno
import multiprocessing.queues
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch.utils.data.dataloader
from mmengine.dataset import worker_init_fn

from thinktwice.errors import StartError, describe, traceback_is_wanted

SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})

FEWER = 'use fewer loader workers (--cfg-options train_dataloader.num_workers=0 for none)'
#: What to do, by a pattern of what torch or the system says; the first that matches.
HINTS = {
    r'Too many open files': f'raise the limit of open files (ulimit -n 4096), or {FEWER}',
    r'shared memory|/torch_\d+_|Bus error': 'the shared memory in /dev/shm is full: make it larger '
    f'(docker run --shm-size=8g), or {FEWER}',
    r'worker .*signal: Killed': f'it probably ran out of memory: {FEWER}',
    r'worker .*(exited unexpectedly|killed by signal)': 'its own message, if any, is above',
}


@contextmanager
def with_hints() -> Iterator[None]:
    """Say what to do where loader workers run out of shared memory, open files or memory.

    Raises:
        StartError: Instead of the error of torch or of the system.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        hint = _hint(error)
        if hint is None or traceback_is_wanted():
            raise
        last_line = str(error).strip().rpartition('\n')[2]
        cause = last_line.partition('. ')[0] or type(error).__name__  # torch appends advice of its own
        raise StartError(f'loading data failed ({cause}): {hint}') from error


def _hint(error: BaseException) -> str | None:
    for pattern, hint in HINTS.items():
        if re.search(pattern, str(error)):
            return hint
    frames = traceback.extract_tb(error.__traceback__)
    is_of_loader = any(frame.filename == torch.utils.data.dataloader.__file__ for frame in frames)
    # a worker that ends closes its connections before torch sees that it has ended
    if is_of_loader and (isinstance(error, (EOFError, ConnectionError)) or _is_of_socket(error)):
        return 'a loader worker has ended, its message is above'
    return None


def _is_of_socket(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) and error.filename is None


def init_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seed a worker as mmengine does, and ignore signals that do not come from the process it reads for.

    Schedulers signal every process of a run. A worker that ended at once would make the step fail
    that ``PreemptionHook`` finishes and saves. A worker whose parent process has ended ends by itself.

    Args:
        worker_id: Number of the worker.
        num_workers: Workers of the loader.
        rank: Rank of the parent process.
        seed: Seed of the run.
    """
    worker_init_fn(worker_id, num_workers, rank, seed)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()
    # In the threads that send samples Python only prints an error: the sample would never arrive, and its
    # process would wait forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    sys.excepthook = _end_without_files


def _end_when_told_by(process: int) -> None:
    """Wait for a signal from ``process``; only ``sigwaitinfo`` tells who sent one."""
    while signal.sigwaitinfo(SIGNALS).si_pid != process:
        pass
    os._exit(0)


def _end(error: BaseException, unsent: Any = None) -> None:
    """End this worker with one line, which the process that it reads for cannot know."""
    hint = _hint(error)
    sys.stderr.write(f'error of a loader worker: {describe(error)}{f": {hint}" if hint else ""}\n')
    sys.stderr.flush()
    os._exit(1)


def _end_without_files(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _end(error)
    sys.__excepthook__(kind, error, trace)
