"""Processes that read for a loader, when the whole process group is told to end."""

import signal
from typing import Any

from mmengine.dataset import worker_init_fn

GRACE_SECONDS = 120
"""A worker that was told to end does so after this time, should its process not have ended it before."""


def init_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Seed a worker as mmengine does, and let it go on reading while its process finishes a step.

    Schedulers signal all processes of a group. A worker that obeyed at once would make the step
    fail that ``PreemptionHook`` wants to finish and save. The process ends its workers itself.

    Args:
        worker_id: Number of the worker.
        num_workers: Workers of the loader.
        rank: Of the process that the worker reads for.
        seed: Of the run.
    """
    worker_init_fn(worker_id, num_workers, rank, seed)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _leave_later)


def _leave_later(number: int, frame: Any) -> None:
    signal.alarm(GRACE_SECONDS)
