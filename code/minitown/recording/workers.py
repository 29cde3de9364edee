"""Records routes in several processes: progress, Ctrl-C, and processes that die."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from thinktwice.errors import UserError
from thinktwice.minitown.recording.drivers import Driver
from thinktwice.minitown.recording.frame_writer import RouteJob

PROGRESS_SECONDS = 0.2

RecordJob = Callable[[RouteJob, Driver, Callable[[], None]], list[int]]
"""Records one route, calls the last argument after each frame, and returns the disturbed frames."""

_stop: Any = None
_done: Any = None
_driver: Driver | None = None


def run_in_workers(
    record_job: RecordJob,
    make_driver: Callable[[], Driver],
    jobs: list[RouteJob],
    workers: int,
    report: Callable[[int, int], None],
) -> list[list[int]]:
    """Record routes in `workers` processes.

    Args:
        record_job: Can be pickled.
        make_driver: Makes the driver of a process; can be pickled.
        jobs: The routes.
        workers: Number of processes.
        report: Called with (frames done, frames in total).

    Returns:
        The disturbed frames of each route.

    Raises:
        UserError: A worker was killed.
    """
    context = multiprocessing.get_context('spawn')
    stop, done = context.Event(), context.Value('q', 0)
    total = sum(job.frames for job in jobs)
    with ProcessPoolExecutor(workers, context, _start_worker, (stop, done)) as executor:
        try:
            futures = [executor.submit(_work, record_job, make_driver, job) for job in jobs]
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                report(done.value, total)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise UserError(
                'a recording process was killed (out of memory?): the recording is unfinished; '
                'use fewer --workers and record it again with --force'
            ) from error
        except BaseException:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _start_worker(stop: Any, done: Any) -> None:
    """Initialize a worker: Ctrl-C is handled by the parent, and the worker ends with the parent."""
    global _stop, _done
    _stop, _done = stop, done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)


def _work(record_job: RecordJob, make_driver: Callable[[], Driver], job: RouteJob) -> list[int]:
    global _driver
    if _driver is None:
        _driver = make_driver()
    return record_job(job, _driver, _count_frame)


def _count_frame() -> None:
    with _done.get_lock():
        _done.value += 1
    if _stop.is_set():
        raise InterruptedError('the recording was stopped')
