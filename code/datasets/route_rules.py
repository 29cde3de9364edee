"""Rules for the number of usable frames of a recorded route.

A failed route is cut before its failure. A collision or a red light ends the recording at once,
so its last frames lead into the accident. A vehicle that is blocked or runs out of time stands
still for minutes, of which only a few frames are kept.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FRAMES_BEFORE_FAILURE = 10  # 5 s at 2 Hz
FRAMES_AFTER_LAST_MOTION = 5
MOVING_SPEED = 0.1  # m/s
FULL_SCORE = 100.0

STANDSTILL = ('route_timeout', 'vehicle_blocked')
ACCIDENTS = ('red_light', 'collisions_pedestrian', 'collisions_vehicle', 'collisions_layout')

SpeedOf = Callable[[int], float]


@dataclass(frozen=True)
class RouteResult:
    """Score of one recorded route.

    Attributes:
        score: composed score, 0..100.
        infractions: types of the infractions that occurred.
        disturbed_frames: as in ``RouteRecord``.
    """

    score: float
    infractions: frozenset[str]
    disturbed_frames: tuple[int, ...] = ()


@dataclass
class Results:
    """Scores of the recording runs.

    Attributes:
        by_route: scores by route folder.
        unreadable: reason for each file that could not be read.
    """

    by_route: dict[str, RouteResult] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def last_motion(speed_of: SpeedOf, limit: int) -> int:
    """Largest frame i with 1 <= i < limit in which the vehicle moved, else 0.

    Searches backward, so that as few files as possible are read.
    """
    return next((i for i in range(limit - 1, 0, -1) if speed_of(i) > MOVING_SPEED), 0)


def usable_frames(frames: int, speed_of: SpeedOf, result: RouteResult | None) -> tuple[int, str]:
    """Number of usable frames of a route and the rule that determined it.

    Args:
        frames: number of recorded frames.
        speed_of: returns the speed of a frame in m/s; called only where the rule needs it.
        result: score of the route, None if there is none.

    Returns:
        The number of usable frames from 0 on, and the name of the rule: ``complete``,
        ``standstill``, ``accident``, ``unrated`` (no decisive score: cut to be safe) or ``short``.
    """
    if result is not None:
        if result.score >= FULL_SCORE:
            return frames, 'complete'
        if result.infractions & set(STANDSTILL):
            return min(frames, last_motion(speed_of, frames) + FRAMES_AFTER_LAST_MOTION), 'standstill'
        if result.infractions & set(ACCIDENTS):
            return max(0, frames - FRAMES_BEFORE_FAILURE), 'accident'
    if frames <= FRAMES_BEFORE_FAILURE:
        return 0, 'short'
    kept = frames - FRAMES_BEFORE_FAILURE
    return min(kept, last_motion(speed_of, kept) + FRAMES_AFTER_LAST_MOTION), 'unrated'


def read_results(folder: Path) -> Results:
    """Read all ``*_results.json`` of a folder; unreadable files are listed, not fatal.

    Args:
        folder: folder with the scores of the recording runs; it may not exist.
    """
    results = Results()
    for path in sorted(folder.glob('*_results.json')):
        try:
            records = json.loads(path.read_bytes())['_checkpoint']['records']
            parsed = [_parse_record(record) for record in records]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            results.unreadable[str(path)] = f'{type(error).__name__}: {error}'
            continue
        results.by_route.update(parsed)
    return results


def _parse_record(record: Mapping[str, Any]) -> tuple[str, RouteResult]:
    route = str(record['meta']['folder_name']).rstrip('/').rsplit('/', 1)[-1]
    infractions = frozenset(kind for kind, events in record['infractions'].items() if events)
    disturbed = tuple(int(frame) for frame in record.get('disturbed_frames', ()))
    return route, RouteResult(float(record['scores']['score_composed']), infractions, disturbed)
