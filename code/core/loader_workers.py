"""Processes that read for a loader, when the whole process group is told to end."""

import os
import signal
import threading

from mmengine.dataset import worker_init_fn

SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})


def init_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seed a worker as mmengine does, and let it obey its own process only.

    Schedulers signal every process of a run. A reader that ended at once would make the step fail
    that ``PreemptionHook`` wants to finish and save. A reader whose process is gone ends by itself.

    Args:
        worker_id: Number of the worker.
        num_workers: Workers of the loader.
        rank: Of the process that the worker reads for.
        seed: Of the run.
    """
    worker_init_fn(worker_id, num_workers, rank, seed)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(process: int) -> None:
    """Wait for a signal that comes from ``process``; only a waiting thread learns who sent one."""
    while signal.sigwaitinfo(SIGNALS).si_pid != process:
        pass
    os._exit(0)
