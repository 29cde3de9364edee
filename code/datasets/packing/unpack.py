"""From a packed route back to one small file for each modality, camera and frame."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..calibration import Calibration, load_calibration
from ..pixels import decode_depth, encode_depth
from ..storage import RouteReader, SampleReadError, open_storage
from .routes import RouteReport


@dataclass(frozen=True)
class UnpackTask:
    """One route to unpack.

    Attributes:
        source (str): Root of the packed dataset.
        destination (str): Root of the dataset to write.
        town (str): Town folder.
        route (str): Route in it.
        frames (int): Frames to unpack, from 0.
    """

    source: str
    destination: str
    town: str
    route: str
    frames: int


def unpack_route(task: UnpackTask) -> RouteReport:
    """Write the files of a route; its folder appears when it is whole.

    Colour and depth are those of the packed form: undistorted, of its size and
    precision. The calibration of the packed dataset describes them.

    Args:
        task (UnpackTask): What to unpack.

    Returns:
        RouteReport: ``damaged`` lists records that were not there to write;
            ``error`` says why the route is not done.
    """
    report = RouteReport(f'{task.town}/{task.route}')
    folder = Path(task.destination) / task.town / task.route
    if folder.is_dir():
        report.was_done, report.frames = True, task.frames
        return report
    unfinished = folder.with_name(f'{folder.name}.partial')
    try:
        storage = open_storage(task.source)
        reader, calibration = storage.route(task.town, task.route), load_calibration(storage)
        shutil.rmtree(unfinished, ignore_errors=True)
        for frame in range(task.frames):
            report.damaged.update(_unpack_frame(reader, calibration, unfinished, frame))
        unfinished.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, folder)
        report.frames = task.frames
    except (OSError, SampleReadError, ValueError) as error:
        report.error = f'{type(error).__name__}: {error}'
    return report


def _unpack_frame(reader: RouteReader, calibration: Calibration, folder: Path, frame: int) -> dict[str, str]:
    size = calibration.stored_size
    writers: dict[str, Callable[[], bytes | np.ndarray]] = {
        'measurements.json': lambda: json.dumps(reader.measurements(frame)).encode(),
        'supervision.npy': lambda: np.array(reader.supervision(frame), dtype=object),
        'lidar.npy': lambda: reader.points(frame),
    }
    for camera in calibration.cameras:
        writers[f'{camera.rgb}.png'] = partial(_colour_image, reader, camera.rgb, frame, size)
        writers[f'{camera.depth}.png'] = partial(_depth_image, reader, camera.depth, frame, size)
        writers[f'{camera.seg}.png'] = partial(reader.class_ids, camera.seg, frame, size)
    damaged = {}
    for name, read in writers.items():
        modality, suffix = name.split('.')
        try:
            content = read()
        except SampleReadError as error:
            damaged[f'{modality}/{frame:04d}'] = str(error)
            continue
        _write(folder / modality / f'{frame:04d}.{suffix}', content)
    return damaged


def _colour_image(reader: RouteReader, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
    return reader.rgb(folder, frame, size)[..., ::-1]


def _depth_image(reader: RouteReader, folder: str, frame: int, size: tuple[int, int]) -> np.ndarray:
    return encode_depth(decode_depth(reader.depth_code(folder, frame, size)))[..., ::-1]


def _write(path: Path, content: bytes | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == '.npy':
        np.save(path, content, allow_pickle=content.dtype == object)
    else:
        path.write_bytes(cv2.imencode('.png', np.ascontiguousarray(content))[1].tobytes())
