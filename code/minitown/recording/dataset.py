"""Records a dataset of drives: `record` plans the routes, runs them and writes the metadata last."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from thinktwice.minitown.recording.dataset_files import (
    CALIBRATION,
    MARKER,
    UNFINISHED,
    prepare_root,
    write_json,
    write_metadata,
)
from thinktwice.minitown.recording.frame_writer import RouteJob, record_route
from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.sensor_suite import Sensors
from thinktwice.minitown.world.town import parse_town_name

DEFAULT_TOWNS = (
    *(
        'town01_00',
        'town02_00',
        'town03_00',
        'town01_val',
        'town04_00',
        'town05_00',
        'town06_00',
        'town01_01',
    ),
    *(
        'town03_01',
        'town02_val',
        'town04_01',
        'town06_01',
        'town05_01',
        'town07_00',
        'town10_00',
        'town03_val',
    ),
)
"""Towns by route number, from the start again after the last.

Two routes fill the default training towns (01, 03, 04, 06) and validation towns
(02, 05); four also fill the validation index of the full split, ``val``.
"""

MIN_SIZE = 16
MAX_SIZE = 4096
PROGRESS_SECONDS = 0.2

_stop: Any = None
_done: Any = None


def plan_routes(routes: int, frames: int, seed: int, towns: Sequence[str] | None = None) -> list[RouteJob]:
    """Return the routes of a recording, spread over the towns in turn.

    Raises:
        ValueError: for numbers that make no recording and for unknown town names.
    """
    for name, value, low in (('routes', routes, 1), ('frames', frames, 1), ('seed', seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f'{name} must be a whole number of at least {low}, got {value!r}')
    if frames > 9999:
        raise ValueError(f'frames must be at most 9999 (file names have four digits), got {frames}')
    names = list(DEFAULT_TOWNS if towns is None else towns)
    if not names:
        raise ValueError('towns must name at least one town, for example town01_00')
    if len(set(names)) < len(names):
        raise ValueError(f'towns are named twice: {", ".join(names)}')
    for name in names:
        parse_town_name(name)
    return [RouteJob(names[i % len(names)], i // len(names), seed, frames) for i in range(routes)]


def _make_rig(size: tuple[int, int], field_of_view: float) -> CameraRig:
    """Return the cameras, or raise a ValueError for a size or lens that makes no picture."""
    if len(size) != 2 or not all(MIN_SIZE <= value <= MAX_SIZE for value in size):
        raise ValueError(
            f'size must be height and width of {MIN_SIZE} to {MAX_SIZE} pixels, got {tuple(size)}'
        )
    if not 20.0 <= field_of_view <= 160.0:
        raise ValueError(f'field_of_view must be 20 to 160 degrees, got {field_of_view}')
    return CameraRig((int(size[0]), int(size[1])), float(field_of_view))


def record(
    out: str | os.PathLike[str],
    routes: int = 2,
    frames: int = 12,
    seed: int = 0,
    size: tuple[int, int] = (90, 160),
    towns: Sequence[str] | None = None,
    workers: int = 1,
    *,
    force: bool = False,
    debug_maps: bool = False,
    field_of_view: float = 100.0,
    lidar: Lidar | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Record drives in the on-disk format of the CARLA dataset.

    The files depend on the arguments alone, byte for byte, and not on `workers`.
    A route appears under its name when its last frame is written, the metadata
    when the last route is.

    Args:
        out: folder of the new dataset.
        routes: number of drives, spread over the towns in turn.
        frames: per drive, 0.5 s apart.
        seed: of everything that moves; the towns themselves are fixed.
        size: image height and width in pixels.
        towns: names such as ``town01_00``; `DEFAULT_TOWNS` if None.
        workers: processes to use; 1 records in this one.
        force: replace an older recording.
        debug_maps: also save the teacher's masks (``bev_seg_label``, 2.2 MB a frame).
        field_of_view: of the cameras, horizontal, degrees.
        lidar: the sensor; the 64-beam default if None.
        progress: called with (frames done, frames in all).

    Returns:
        The content of ``dataset_metadata.json``.

    Raises:
        ValueError: for arguments that make no recording.
        FileExistsError: if `out` is in use (see `dataset_files.prepare_root`).
    """
    jobs = plan_routes(routes, frames, seed, towns)
    if workers < 1:
        raise ValueError(f'workers must be at least 1, got {workers}')
    sensors = Sensors(_make_rig(size, field_of_view), lidar or Lidar(), debug_maps)
    root = Path(out)
    prepare_root(root, force)
    settings = {'routes': routes, 'frames': frames, 'seed': seed, 'size': list(sensors.rig.size)}
    write_json(root / MARKER, {'generator': 'thinktwice.minitown', 'schema_version': 1, **settings})
    write_json(root / CALIBRATION, sensors.rig.calibration())
    report = progress or (lambda done, total: None)
    report(0, routes * frames)
    try:
        if workers == 1:
            _run_here(root, jobs, sensors, report)
        else:
            _run_in_processes(root, jobs, sensors, min(workers, routes), report)
    finally:
        shutil.rmtree(root / UNFINISHED, ignore_errors=True)
    return write_metadata(root, jobs)


def _record_job(root: Path, job: RouteJob, sensors: Sensors, on_frame: Callable[[], None]) -> None:
    """Record a route beside the dataset and move it into its place when it is whole."""
    unfinished = root / UNFINISHED / job.folder_name
    record_route(job, unfinished, sensors, on_frame)
    place = root / job.town / job.folder_name
    place.parent.mkdir(exist_ok=True)
    os.replace(unfinished, place)


def _run_here(root: Path, jobs: list[RouteJob], sensors: Sensors, report: Callable[[int, int], None]) -> None:
    total = sum(job.frames for job in jobs)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        report(done, total)

    for job in jobs:
        _record_job(root, job, sensors, count)


def _start_worker(stop: Any, done: Any) -> None:
    """Set up a worker: the parent alone answers Ctrl-C, and no worker outlives it."""
    global _stop, _done
    _stop, _done = stop, done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow_parent, args=(parent.sentinel,), daemon=True).start()


def _follow_parent(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)


def _count_in_worker() -> None:
    with _done.get_lock():
        _done.value += 1
    if _stop.is_set():
        raise InterruptedError('the recording was stopped')


def _work(root: Path, job: RouteJob, sensors: Sensors) -> None:
    _record_job(root, job, sensors, _count_in_worker)


def _run_in_processes(
    root: Path, jobs: list[RouteJob], sensors: Sensors, workers: int, report: Callable[[int, int], None]
) -> None:
    context: SpawnContext = multiprocessing.get_context('spawn')
    stop, done = context.Event(), context.Value('q', 0)
    total = sum(job.frames for job in jobs)
    with ProcessPoolExecutor(workers, context, _start_worker, (stop, done)) as executor:
        try:
            pending = {executor.submit(_work, root, job, sensors) for job in jobs}
            while pending:
                finished, pending = wait(pending, PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                report(done.value, total)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f'a recording process was ended from outside (out of memory?): {root} is unfinished'
            ) from error
        except BaseException:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise
