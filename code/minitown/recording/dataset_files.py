"""The files of a recording besides its routes: marker, calibration, metadata, results."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

from thinktwice.files import write_atomically, write_json
from thinktwice.minitown.recording.frame_writer import RouteJob

MARKER = 'minitown.json'
CALIBRATION = 'calibration.json'
METADATA = 'dataset_metadata.json'
PICKLED_METADATA = 'dataset_metadata.pkl'
RESULTS = 'collect_data_json'
UNFINISHED = '.unfinished'
"""Folder of routes that are being recorded; the dataset does not read it."""
_TOWN_FOLDER = re.compile(r'town\d\d_(val|\d\d)')


def is_recording(root: Path) -> bool:
    """Whether `root` contains the marker file of a minitown recording."""
    try:
        content = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get('generator') == 'thinktwice.minitown'


def prepare_root(root: Path, force: bool) -> None:
    """Prepare `root` for a new recording.

    With `force` an older recording is removed; files in the folder that are not part of a
    recording are kept.

    Raises:
        FileExistsError: The folder is not empty and `force` is off, or it is not a minitown
            recording.
        NotADirectoryError: `root` is a file.
    """
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f'{root} is a file; choose a folder for the recording')
    if root.is_dir() and any(root.iterdir()):
        if not is_recording(root):
            raise FileExistsError(
                f'{root} is not empty and is no minitown recording ({MARKER} is missing); '
                'nothing was changed: choose another folder'
            )
        if not force:
            state = 'a complete' if (root / METADATA).is_file() else 'an unfinished'
            raise FileExistsError(f'{root} contains {state} recording; replace it with --force')
        _remove_recording(root)
    root.mkdir(parents=True, exist_ok=True)


def _remove_recording(root: Path) -> None:
    """Delete the parts of a recording, metadata first: without it the rest cannot pass for a complete one."""
    for name in (METADATA, PICKLED_METADATA, CALIBRATION):
        (root / name).unlink(missing_ok=True)
    for path in sorted(root.iterdir()):
        is_part = _TOWN_FOLDER.fullmatch(path.name) or path.name in (RESULTS, UNFINISHED)
        if is_part and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    (root / MARKER).unlink()


def write_metadata(root: Path, jobs: list[RouteJob], disturbed: list[list[int]]) -> dict[str, Any]:
    """Write results and metadata of completed routes.

    Args:
        root: Of the recording.
        jobs: Its routes.
        disturbed: Frames of each route between which and the next one the expert did not drive alone.

    Returns:
        The JSON metadata.
    """
    # An entry appears only where there are such frames.
    extra = {job: {'disturbed_frames': frames} for job, frames in zip(jobs, disturbed, strict=True) if frames}
    towns: dict[str, list[RouteJob]] = {}
    for job in jobs:
        towns.setdefault(job.town, []).append(job)
    metadata: dict[str, Any] = {'schema_version': 1, 'towns': {}}
    pickled: dict[str, dict[str, int]] = {}
    for town in sorted(towns):
        routes = sorted(towns[town], key=lambda job: job.folder_name)
        metadata['towns'][town] = {
            job.folder_name: {
                'frames': job.frames,
                'usable': job.frames,
                'rule': 'complete',
                **extra.get(job, {}),
            }
            for job in routes
        }
        pickled[town] = {f'../{town}/{job.folder_name}': job.frames for job in routes}
        records = [{**_result(job), **extra.get(job, {})} for job in routes]
        path = root / RESULTS / f'data_collect_{town}_results.json'
        write_json(path, {'_checkpoint': {'records': records}})
    write_atomically(root / PICKLED_METADATA, lambda file: pickle.dump(pickled, file, protocol=4))
    write_json(root / METADATA, metadata)
    return metadata


def _result(job: RouteJob) -> dict[str, Any]:
    """Return the score record of a route without infractions, in the format of CARLA's leaderboard."""
    infractions: dict[str, list[str]] = {
        name: []
        for name in (
            'collisions_pedestrian',
            'collisions_vehicle',
            'collisions_layout',
            'red_light',
            'stop_infraction',
            'outside_route_lanes',
            'route_dev',
            'route_timeout',
            'vehicle_blocked',
        )
    }
    return {
        'meta': {'folder_name': job.folder_name},
        'scores': {'score_composed': 100.0},
        'infractions': infractions,
    }
