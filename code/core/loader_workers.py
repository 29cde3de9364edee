"""Loader workers when a scheduler signals the whole process group."""

import os
import signal
import threading

from mmengine.dataset import worker_init_fn

SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})


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


def _end_when_told_by(process: int) -> None:
    """Wait for a signal from ``process``; only ``sigwaitinfo`` tells who sent one."""
    while signal.sigwaitinfo(SIGNALS).si_pid != process:
        pass
    os._exit(0)
