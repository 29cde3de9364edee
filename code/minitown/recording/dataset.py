"""Records a dataset: `record` plans the routes, records them and writes the metadata last."""

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from thinktwice.errors import ConfigError, WriteError
from thinktwice.files import write_json
from thinktwice.minitown.recording.calibration import make_calibration
from thinktwice.minitown.recording.dataset_files import (
    CALIBRATION,
    MARKER,
    UNFINISHED,
    prepare_root,
    write_metadata,
)
from thinktwice.minitown.recording.drivers import Driver, Expert
from thinktwice.minitown.recording.frame_writer import RouteJob, record_route
from thinktwice.minitown.recording.workers import run_in_workers
from thinktwice.minitown.sensors.cameras import CameraRig
from thinktwice.minitown.sensors.lidar import Lidar
from thinktwice.minitown.sensors.sensor_suite import Sensors
from thinktwice.minitown.world.town import parse_town_name

# fmt: off
DEFAULT_TOWNS = (
    'town01_00', 'town02_00', 'town03_00', 'town01_val', 'town04_00', 'town05_00', 'town06_00', 'town01_01',
    'town03_01', 'town02_val', 'town04_01', 'town06_01', 'town05_01', 'town07_00', 'town10_00', 'town03_val',
)
# fmt: on
"""Town of each route, repeated after the last.

Two routes cover training towns (01, 03, 04, 06) and validation towns (02, 05) of the default
split; four also cover the validation index ``val`` of the full split.
"""


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
    make_driver: Callable[[], Driver] = Expert,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Record drives in the on-disk format of the CARLA dataset.

    The files depend on the arguments alone, byte for byte, and not on `workers`. A route
    folder appears when its last frame is written, the metadata when the last route is.

    Args:
        out: Folder of the new dataset.
        routes: Number of drives, assigned to the towns in turn.
        frames: Per drive, 0.5 s apart.
        seed: Of everything that moves; the towns themselves are fixed.
        size: Image height and width in pixels.
        towns: Names such as ``town01_00``; `DEFAULT_TOWNS` if None.
        workers: Number of processes; 1 records in this process.
        force: Replace an older recording.
        debug_maps: Also save the teacher's masks (``bev_seg_label``, 2.2 MB per frame).
        field_of_view: Of the cameras, horizontal, degrees.
        lidar: The sensor; the 64-beam default if None.
        make_driver: Makes the driver of the ego; called once in each process, picklable for several.
        progress: Called with (frames done, frames in total).

    Returns:
        The content of ``dataset_metadata.json``.

    Raises:
        ConfigError: An argument is out of range.
        FileExistsError: `out` is in use (see `dataset_files.prepare_root`).
        WriteError: A file cannot be written.
        UserError: A worker process was killed.
    """
    jobs = plan_routes(routes, frames, seed, towns)
    if workers < 1:
        raise ConfigError(f'workers must be at least 1, got {workers}')
    sensors = Sensors(CameraRig(size, field_of_view), lidar or Lidar())
    driver = make_driver()  # also for several processes: what it cannot load is reported before writing
    root = Path(out)
    prepare_root(root, force)
    settings = {'routes': routes, 'frames': frames, 'seed': seed, 'size': list(sensors.rig.size)}
    write_json(root / MARKER, {'generator': 'thinktwice.minitown', 'schema_version': 1, **settings})
    write_json(root / CALIBRATION, make_calibration(sensors))
    report = progress or (lambda done, total: None)
    total = routes * frames
    report(0, total)
    record_job = partial(_record_job, root, sensors, debug_maps)
    try:
        if workers == 1:
            done = itertools.count(1)
            disturbed = [record_job(job, driver, lambda: report(next(done), total)) for job in jobs]
        else:
            disturbed = run_in_workers(record_job, make_driver, jobs, min(workers, routes), report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f'{root} is unfinished, record it again with --force') from None
    except OSError as error:
        raise WriteError(f'cannot write to {root}: {error}; the recording is unfinished') from error
    finally:
        shutil.rmtree(root / UNFINISHED, ignore_errors=True)
    return write_metadata(root, jobs, disturbed)


def plan_routes(routes: int, frames: int, seed: int, towns: Sequence[str] | None = None) -> list[RouteJob]:
    """Return the routes of a recording, assigned to the towns in turn.

    Raises:
        ConfigError: A number is out of range, or a town is unknown or named twice.
    """
    for name, value, low in (('routes', routes, 1), ('frames', frames, 1), ('seed', seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f'{name} must be an integer of at least {low}, got {value!r}')
    if frames > 9999:
        raise ConfigError(f'frames must be at most 9999 (file names have four digits), got {frames}')
    names = list(DEFAULT_TOWNS if towns is None else towns)
    if not names:
        raise ConfigError('towns must name at least one town, for example town01_00')
    for place, name in enumerate(names):
        parse_town_name(name)
        if name in names[:place]:
            raise ConfigError(f'towns names {name} twice; name each town once')
    return [RouteJob(names[i % len(names)], i // len(names), seed, frames) for i in range(routes)]


def _record_job(
    root: Path,
    sensors: Sensors,
    debug_maps: bool,
    job: RouteJob,
    driver: Driver,
    on_frame: Callable[[], None],
) -> list[int]:
    """Record a route in the folder of unfinished routes, then move it to its place; see `record_route`."""
    unfinished = root / UNFINISHED / job.folder_name
    disturbed = record_route(job, unfinished, sensors, debug_maps, driver, on_frame)
    place = root / job.town / job.folder_name
    place.parent.mkdir(exist_ok=True)
    os.replace(unfinished, place)
    return disturbed
