"""Writes one drive to disk: a folder per modality, a file per frame."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.recording.actor_boxes import nearby_actors
from thinktwice.minitown.recording.bev_picture import draw_bev
from thinktwice.minitown.recording.calibration import FRAME_INTERVAL
from thinktwice.minitown.recording.drivers import DECISIONS_PER_FRAME, STEPS_PER_DECISION, Driver
from thinktwice.minitown.recording.supervision import make_supervision
from thinktwice.minitown.sensors.raycast import FAR
from thinktwice.minitown.sensors.renderer import CameraView
from thinktwice.minitown.sensors.sensor_suite import Observation, Sensors

DEPTH_STEPS = 256**3 - 1
_PNG_LEVEL = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class RouteJob:
    """One route to record.

    Attributes:
        town: Name, for example ``town01_00``.
        number: Which drive of that town.
        seed: Of the whole recording.
        frames: Number of frames, 0.5 s apart.
    """

    town: str
    number: int
    seed: int
    frames: int

    @property
    def folder_name(self) -> str:
        """Name of the route folder; its time stamp counts the drives of a town."""
        minute, second = divmod(self.number, 60)
        hour, minute = divmod(minute, 60)
        return f'routes_{self.town}_01_01_{hour:02d}_{minute:02d}_{second:02d}'


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) RGB code of z-depth in meters: R + 256 G + 65536 B in 1000 m / (256^3 - 1)."""
    code = np.round(np.clip(depth, 0.0, FAR) * (DEPTH_STEPS / FAR)).astype(np.uint32)
    return np.stack([code & 255, (code >> 8) & 255, code >> 16], axis=-1).astype(np.uint8)


def _png(image: np.ndarray) -> bytes:
    """Encode an RGB (H, W, 3) or grayscale (H, W) uint8 image."""
    channels_last = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode('.png', channels_last, _PNG_LEVEL)
    if not done:
        raise RuntimeError(f'PNG encoding failed for an image of shape {image.shape}')
    return data.tobytes()


def _canonical(value: Any) -> Any:
    """Replace dtypes by numpy's own instances: a pickle depends on whether equal dtypes are one object."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.astype(np.dtype(value.dtype.str))
    return value


def _npy(value: Any) -> bytes:
    """Encode an array, or a dict as a 0-d object array."""
    buffer = io.BytesIO()
    value = _canonical(value)
    np.save(buffer, value, allow_pickle=isinstance(value, dict))
    return buffer.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


class FrameWriter:
    """Writes the current step of a drive as one frame.

    Args:
        folder: Of the route; it must not exist.
        sensors: That observe.
        debug_maps: Whether to write the teacher's masks too.
    """

    def __init__(self, folder: Path, sensors: Sensors, debug_maps: bool) -> None:
        self.folder = folder
        self._sensors = sensors
        self._debug_maps = debug_maps
        names = ['bev', 'supervision', '3d_bbs', 'measurements', 'lidar']
        names += ['bev_seg_label'] if debug_maps else []
        names += [
            f'{kind}_{camera.name}' for kind in ('rgb', 'depth', 'seg') for camera in sensors.rig.cameras
        ]
        for name in names:
            (folder / name).mkdir(parents=True)

    def _write(self, kind: str, frame: int, suffix: str, data: bytes) -> None:
        (self.folder / kind / f'{frame:04d}.{suffix}').write_bytes(data)

    def _write_views(self, frame: int, views: list[CameraView]) -> None:
        for camera, view in zip(self._sensors.rig.cameras, views, strict=True):
            self._write(f'rgb_{camera.name}', frame, 'png', _png(view.rgb))
            self._write(f'depth_{camera.name}', frame, 'png', _png(encode_depth(view.depth)))
            self._write(f'seg_{camera.name}', frame, 'png', _png(view.classes))

    def write(self, drive: Drive, frame: int, observation: Observation) -> None:
        """Write frame number `frame` of a drive and what its sensors observe."""
        measurements = drive.measurements()
        self._write_views(frame, observation.views)
        masks = drive.teacher_masks()
        supervision = make_supervision(drive, masks, measurements)
        picture = draw_bev(masks, measurements, supervision['action'])
        self._write('bev', frame, 'png', _png(picture))
        if self._debug_maps:
            self._write('bev_seg_label', frame, 'npy', _npy(masks.astype(np.float32) / np.float32(255)))
        self._write('supervision', frame, 'npy', _npy(supervision))
        self._write('3d_bbs', frame, 'json', _json(nearby_actors(drive, observation.points)))
        self._write('measurements', frame, 'json', _json(measurements))
        self._write('lidar', frame, 'npy', _npy(observation.points))


def record_route(
    job: RouteJob,
    folder: Path,
    sensors: Sensors,
    debug_maps: bool,
    driver: Driver,
    on_frame: Callable[[], None],
) -> list[int]:
    """Record one route.

    Args:
        job: The route.
        folder: Of the route; it must not exist.
        sensors: To record with.
        debug_maps: Whether to write the teacher's masks too.
        driver: Of the ego.
        on_frame: Called after each frame.

    Returns:
        The frames between which and the next one the expert did not drive alone.
    """
    drive = Drive(job.town, job.seed, job.number, seconds=job.frames * FRAME_INTERVAL)
    writer = FrameWriter(folder, sensors, debug_maps)
    town_key = int.from_bytes(job.town.encode(), 'little')

    @lru_cache(maxsize=1)
    def observe(*moment: int) -> Observation:
        lidar_rng = np.random.default_rng([job.seed, job.number, *moment])
        return sensors.observe(drive.scene(), drive.ego.pose, lidar_rng)

    driver.reset(drive, np.random.default_rng([job.seed, job.number, town_key]))
    disturbed: list[int] = []
    for frame in range(job.frames):
        writer.write(drive, frame, observe(frame, town_key))
        on_frame()
        if frame + 1 == job.frames:
            break
        for decision in range(DECISIONS_PER_FRAME):
            moment = (frame, town_key, decision) if decision else (frame, town_key)
            control = driver.control(drive, partial(observe, *moment))
            if control is not None and frame not in disturbed[-1:]:
                disturbed.append(frame)
            for _ in range(STEPS_PER_DECISION):
                drive.step(control)
    return disturbed
