"""Calling one function for many routes, on the cores of this machine or on a Ray cluster."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

import cv2

from thinktwice.errors import UserError

Task = TypeVar('Task')
Result = TypeVar('Result')


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int = 1,
    ray_address: str | None = None,
) -> Iterator[Result]:
    """Call a function for every task; results come as they are ready, in any order.

    Args:
        function: At the top level of a module, or a ``partial`` of one.
        tasks: Arguments that can be pickled.
        workers: Processes on this machine; 1 runs in this one.
        ray_address: Of a Ray cluster (``auto``, ``local``, ``host:port``) that has this package and sees
            the same paths; it decides on the number of processes.

    Raises:
        UserError: A process died (killed, or out of memory).
        ImportError: Ray is asked for and not installed.
    """
    if ray_address is not None:
        yield from _run_on_ray(function, tasks, ray_address)
    elif workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
    else:
        yield from _run_on_cores(function, tasks, workers)


def _run_on_cores(function: Callable, tasks: Sequence, workers: int) -> Iterator:
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__.rpartition('.')[0]])  # imported once, not once per worker
    with ProcessPoolExecutor(min(workers, len(tasks)), context, partial(cv2.setNumThreads, 1)) as pool:
        try:
            for future in as_completed([pool.submit(function, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError('a worker process died: killed, or out of memory; try fewer workers') from error
        except (KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_on_ray(function: Callable, tasks: Sequence, address: str) -> Iterator:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            '--ray needs Ray, an optional extra: pip install -r requirements/ray.txt'
        ) from error
    ray.init(address=address, log_to_driver=False)
    try:
        remote: Any = ray.remote(num_cpus=1)(function)
        waiting = [remote.remote(task) for task in tasks]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        ray.shutdown()
