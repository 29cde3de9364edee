"""How many frames of a recorded route may be used, and why.

A route that failed is cut before its failure: while recording, a collision or a red light ends the
route at once, so its last frames lead into the accident; a vehicle that stands blocked or runs out
of time stands still for minutes, of which a few frames are enough.
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
        score: composed score, 0 .. 100.
        infractions: kinds of infractions that occurred.
    """

    score: float
    infractions: frozenset[str]


@dataclass
class Results:
    """Scores of the recording runs.

    Attributes:
        by_route: scores by route folder.
        unreadable: files or records that could not be read, with the reason.
    """

    by_route: dict[str, RouteResult] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def last_motion(speed_of: SpeedOf, limit: int) -> int:
    """Largest frame i with 1 <= i < limit in which the vehicle moved, else 0.

    Read from the end, so that only the frames that decide are opened.
    """
    return next((i for i in range(limit - 1, 0, -1) if speed_of(i) > MOVING_SPEED), 0)


def usable_frames(frames: int, speed_of: SpeedOf, result: RouteResult | None) -> tuple[int, str]:
    """Usable frames of a route and the rule that gave them.

    Args:
        frames: recorded frames.
        speed_of: speed of a frame in m/s, asked only where the rule needs it.
        result: score of the route, None if there is no record of it.

    Returns:
        Frames 0 .. usable - 1 may be used; the rule's name: ``complete``, ``standstill``,
        ``accident``, ``unrated`` (no decisive record: cut and trimmed to be safe) or ``short``.
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
    """Read all ``*_results.json`` of a folder; what can't be read is listed, not fatal.

    Args:
        folder: folder of the recording runs' scores; it may be absent.
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
    return route, RouteResult(float(record['scores']['score_composed']), infractions)
