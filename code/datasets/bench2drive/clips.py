"""Find the clips of Bench2Drive in a folder: their split, usable frames and sensor rig."""

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from thinktwice.errors import ConfigError, describe
from thinktwice.files import write_json

from ..calibration import (
    CALIBRATION_FILE,
    Calibration,
    CameraCalibration,
    calibration_to_dict,
    package_calibration,
)
from ..jobs import run_tasks
from ..metadata import RouteRecord, is_safe_name
from ..route_scan import TOWN_PREFIX, Scan
from ..storage import SampleReadError
from ..storage.bench2drive import (
    CLIPS_FILE,
    FRAMES_PER_STEP,
    LIDAR_POSITION,
    PHASES,
    SCHEMA_VERSION,
    parse_annotation,
)

MAX_DEPTH = 3  # folders down to a clip: <clip>, v1/<clip> or v1/<scenario>/<clip>
VIEWS = ('front', 'front_left', 'front_right', 'back', 'back_left', 'back_right')
FRAME_INTERVAL = 0.5  # s between the frames of a phase
# x right, y down, z forward in the camera axes of CARLA: x forward, y right, z up
OPTICAL_AXES = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
_TOWN = re.compile(r'_Town(\d\d(?:HD)?)_')


def find_clips(root: Path) -> list[str]:
    """Folders of all clips below a root, relative to it, in sorted order.

    A clip is a folder with ``anno`` and ``camera``, at any of the depths that the downloads have had.
    """
    found: list[str] = []

    def search(folder: Path, relative: str, depth: int) -> None:
        if (folder / 'anno').is_dir() and (folder / 'camera').is_dir():
            found.append(relative)
        elif depth < MAX_DEPTH:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
            names = [name for name in names if not name.startswith(TOWN_PREFIX)]  # of recorded drives
            for name in names:
                search(folder / name, f'{relative}/{name}'.lstrip('/'), depth + 1)

    search(root, '', 0)
    return found


@cache
def val_clips() -> frozenset[str]:
    """Names of the 50 clips of the base set that its authors validate on."""
    file = resources.files('thinktwice.datasets.bench2drive') / 'splits.json'
    return frozenset(json.loads(file.read_text(encoding='utf-8'))['val'])


def scan_clips(
    root: Path, folders: Sequence[str], phases: Sequence[int] = PHASES, workers: int = 1
) -> tuple[Scan, dict[str, str], Calibration | None]:
    """Find the usable frames of clips and their sensor rig; shows progress on a terminal.

    The town index of a clip is its town, ``train`` or ``val``, and the phase, as in ``town12_train0``.

    Args:
        root: folder of the dataset.
        folders: folders of the clips, relative to the root.
        phases: phases of the clips to list.
        workers: number of processes.

    Returns:
        The scan, folder by name of each clip that it lists, and the rig; None without a readable clip.
    """
    scan, rig = Scan(), None
    clips: dict[str, str] = {}
    found = run_tasks(partial(_scan_clip, root), list(folders), workers)
    scans = list(tqdm(found, total=len(folders), unit='clip', file=sys.stderr, disable=None))
    for folder, clip, problem in sorted(scans, key=lambda one: one[0]):
        name = folder.rpartition('/')[2]
        town = _TOWN.search(name)
        if clip is None or not town:
            scan.malformed[folder] = problem or 'its name has no town'
            continue
        frames, complete, calibration = clip
        rig = rig or calibration
        if calibration_to_dict(calibration) != calibration_to_dict(rig):
            scan.malformed[folder] = f'another sensor rig than that of {next(iter(clips.values()))}'
            continue
        if name in clips:
            scan.malformed[folder] = f'the same clip as {clips[name]}'
            continue
        clips[name] = folder
        index = f'town{town[1].lower()}_{"val" if name in val_clips() else "train"}'
        for phase in phases:
            record = RouteRecord(_of_phase(frames, phase), _of_phase(complete, phase), 'clip')
            scan.metadata.towns.setdefault(f'{index}{phase}', {})[name] = record
        if problem:
            scan.incomplete[folder] = problem
    towns = dict(sorted(scan.metadata.towns.items()))
    scan.metadata.towns.clear()
    scan.metadata.towns.update(towns)
    return scan, clips, rig


def _of_phase(frames: int, phase: int) -> int:
    return max(0, math.ceil((frames - phase) / FRAMES_PER_STEP))


def _scan_clip(root: Path, folder: str) -> tuple[str, tuple[int, int, Calibration] | None, str]:
    """Folder, (recorded frames, usable frames, rig) unless it is malformed, and what is wrong with it."""
    path = root / folder
    if not all(map(is_safe_name, folder.split('/'))):
        return folder, None, 'the folder name has characters that are not allowed'
    kinds = {'lidar': '.laz', 'expert_assessment': '.npz'}
    for view in VIEWS:
        kinds |= {f'camera/rgb_{view}': '.jpg'}
        kinds |= {f'camera/{kind}_{view}': '.png' for kind in ('depth', 'semantic')}
    try:
        frames = count_frames(path / 'anno', '.json.gz')
        counts = {kind: count_frames(path / kind, suffix) for kind, suffix in kinds.items()}
        first = path / 'anno/00000.json.gz'
        calibration = calibration_of(parse_annotation(first.read_bytes(), str(first)), str(first))
    except (OSError, SampleReadError) as error:
        return folder, None, str(error)
    # the control that follows the last frame was not recorded
    counts['expert_assessment'] = min(counts['expert_assessment'], frames - 1)
    complete = min(counts.values())
    problem = ''
    if complete < frames - 1:
        kind = next(kind for kind, count in counts.items() if count == complete)
        problem = f'{kind} ends before frame {complete:05d}, anno before {frames:05d}'
    return folder, (frames, complete, calibration), problem


def count_frames(folder: Path, suffix: str) -> int:
    """Number of frames 00000, 00001, ... without a gap and without an empty last file.

    Raises:
        OSError: the folder can't be listed.
    """
    names = set(os.listdir(folder))
    count = 0
    while f'{count:05d}{suffix}' in names:
        count += 1
    while count and os.path.getsize(folder / f'{count - 1:05d}{suffix}') == 0:  # a killed recorder
        count -= 1
    return count


def calibration_of(annotation: dict[str, Any], path: str) -> Calibration:
    """The rig that an annotation describes; it has no constants of GNSS and BEV, those are CARLA's.

    Raises:
        SampleReadError: An entry of the sensors is missing or malformed.
    """
    cameras, sizes = [], set()
    for view in VIEWS:
        key = f'CAM_{view.upper()}'
        try:
            sensor = annotation['sensors'][key]
            matrix = np.array(sensor['intrinsic'], dtype=np.float64).reshape(3, 3)
            cam2ego = np.array(sensor['cam2ego'], dtype=np.float64).reshape(4, 4) @ OPTICAL_AXES
            sizes.add((int(sensor['image_size_y']), int(sensor['image_size_x'])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SampleReadError(path, f'sensors.{key}: {describe(error)}') from error
        if not (np.isfinite(matrix).all() and np.isfinite(cam2ego).all()):
            raise SampleReadError(path, f'sensors.{key}: a matrix is not finite')
        # the files count from the corner of the image, and here integers are pixel centers
        intrinsics = np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2] - 0.5, matrix[1, 2] - 0.5])
        names = (view, f'rgb_{view}', f'depth_{view}', f'semantic_{view}')
        cameras.append(
            CameraCalibration(
                *names,
                raw_intrinsics=intrinsics,
                distortion=np.zeros(5),
                intrinsics=intrinsics,
                cam2ego=np.round(cam2ego, 9) + 0.0,
                depth_offset=0.0,
            )
        )
    if len(sizes) > 1:
        raise SampleReadError(path, f'sensors: images of several sizes, {sorted(sizes)}')
    size, carla = sizes.pop(), package_calibration()
    return Calibration(
        cameras=tuple(cameras),
        image_size=size,
        stored_size=size,
        frame_interval=FRAME_INTERVAL,
        north_per_degree=carla.north_per_degree,
        east_per_degree=carla.east_per_degree,
        lidar_height=LIDAR_POSITION[2],
        bev_x=carla.bev_x,
        bev_y=carla.bev_y,
    )


def write_clips(folder: Path, clips: dict[str, str], calibration: Calibration) -> tuple[Path, Path]:
    """Write the list of clips and the calibration, which the metadata need beside them.

    Returns:
        The paths of both files.

    Raises:
        WriteError: if a file can't be written.
    """
    contents = {
        CLIPS_FILE: {'schema_version': SCHEMA_VERSION, 'clips': clips},
        CALIBRATION_FILE: calibration_to_dict(calibration),
    }
    for name, content in contents.items():
        write_json(folder / name, content)
    return folder / CLIPS_FILE, folder / CALIBRATION_FILE


def checked_phases(phases: Sequence[int]) -> tuple[int, ...]:
    """Phases in ascending order.

    Raises:
        ConfigError: One of them is not 0 to 4, or there is none.
    """
    chosen = tuple(phases) if isinstance(phases, Sequence) else ()
    if not chosen or not all(type(phase) is int and phase in PHASES for phase in chosen):
        raise ConfigError(f'phases={phases!r} must be a list of numbers from 0 to {PHASES[-1]}')
    return tuple(sorted(set(chosen)))
