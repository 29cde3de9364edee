"""Scores of driven routes as the CARLA leaderboard (version 1.0) computes and stores them.

A route's driving score is its completion times a penalty. Every infraction multiplies the penalty by the
factor of its kind; leaving the lanes multiplies it by the share of the distance driven inside them. Results
are written in the structure of the leaderboard's checkpoint file, so that its tools read them.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from thinktwice.files import write_text


class InfractionKind(Enum):
    """Kinds of infractions; the value is the leaderboard's key in its result files."""

    COLLISION_PEDESTRIAN = 'collisions_pedestrian'
    COLLISION_VEHICLE = 'collisions_vehicle'
    COLLISION_STATIC = 'collisions_layout'
    RED_LIGHT = 'red_light'
    STOP_SIGN = 'stop_infraction'
    OUTSIDE_LANES = 'outside_route_lanes'
    ROUTE_DEVIATION = 'route_dev'
    ROUTE_TIMEOUT = 'route_timeout'
    BLOCKED = 'vehicle_blocked'


PENALTIES = {
    InfractionKind.COLLISION_PEDESTRIAN: 0.50,
    InfractionKind.COLLISION_VEHICLE: 0.60,
    InfractionKind.COLLISION_STATIC: 0.65,
    InfractionKind.RED_LIGHT: 0.70,
    InfractionKind.STOP_SIGN: 0.80,
}
"""Published factor of each infraction of a kind. The other kinds end a route, or count by their distance."""

LABELS = {
    InfractionKind.COLLISION_PEDESTRIAN: 'Collisions with pedestrians',
    InfractionKind.COLLISION_VEHICLE: 'Collisions with vehicles',
    InfractionKind.COLLISION_STATIC: 'Collisions with layout',
    InfractionKind.RED_LIGHT: 'Red lights infractions',
    InfractionKind.STOP_SIGN: 'Stop sign infractions',
    InfractionKind.OUTSIDE_LANES: 'Off-road infractions',
    InfractionKind.ROUTE_DEVIATION: 'Route deviations',
    InfractionKind.ROUTE_TIMEOUT: 'Route timeouts',
    InfractionKind.BLOCKED: 'Agent blocked',
}
STATUS_COMPLETED = 'Completed'
STATUS_FAILED = 'Failed'


@dataclass(frozen=True)
class Infraction:
    """One event that lowers a score or ends a route.

    Attributes:
        kind: what happened.
        time: seconds since the start of the route.
        position: world x, y in meters.
        detail: more for a person, for example the actor that was hit.
    """

    kind: InfractionKind
    time: float
    position: tuple[float, float]
    detail: str = ''

    def __str__(self) -> str:
        """The event in one line, as result files hold it."""
        x, y = self.position
        detail = f' ({self.detail})' if self.detail else ''
        return f'{LABELS[self.kind]}{detail} at (x={x:.1f}, y={y:.1f}) after {self.time:.1f} s'


@dataclass(frozen=True)
class RouteResult:
    """What happened on one route. Real time is left out: the same drive gives the same result.

    Attributes:
        route_id: name of the route.
        route_length: meters.
        completed: meters of the route that were driven.
        driven: meters that the vehicle moved in all.
        outside: meters of those outside its lanes (off the road or in the wrong lane).
        seconds: simulated seconds.
        standing: simulated seconds below 0.1 m/s.
        infractions: in the order of time.
    """

    route_id: str
    route_length: float
    completed: float
    driven: float
    outside: float
    seconds: float
    standing: float = 0.0
    infractions: tuple[Infraction, ...] = field(default=())

    @property
    def status(self) -> str:
        """``Completed``, or ``Failed`` with why the route ended before its end."""
        endings = {
            InfractionKind.ROUTE_DEVIATION: 'Agent deviated from the route',
            InfractionKind.BLOCKED: 'Agent got blocked',
            InfractionKind.ROUTE_TIMEOUT: 'Agent timed out',
        }
        for infraction in self.infractions:
            if infraction.kind in endings:
                return f'{STATUS_FAILED} - {endings[infraction.kind]}'
        return STATUS_COMPLETED if self.route_completion >= 100.0 else STATUS_FAILED

    @property
    def route_completion(self) -> float:
        """Share of the route that was driven, percent."""
        return 100.0 * min(max(self.completed / self.route_length, 0.0), 1.0)

    @property
    def penalty(self) -> float:
        """Factor of all infractions, 0 to 1."""
        inside = 1.0 - min(self.outside / self.driven, 1.0) if self.driven > 0 else 1.0
        return inside * math.prod(PENALTIES.get(infraction.kind, 1.0) for infraction in self.infractions)

    @property
    def driving_score(self) -> float:
        """Route completion times penalty, 0 to 100."""
        return self.route_completion * self.penalty

    def count(self, kind: InfractionKind) -> int:
        """Number of infractions of a kind."""
        return sum(infraction.kind is kind for infraction in self.infractions)

    def record(self, index: int) -> dict[str, Any]:
        """The route's entry of ``_checkpoint.records``."""
        return {
            'index': index,
            'route_id': self.route_id,
            'status': self.status,
            'scores': {
                'score_route': self.route_completion,
                'score_penalty': self.penalty,
                'score_composed': self.driving_score,
            },
            'infractions': {
                kind.value: [str(event) for event in self.infractions if event.kind is kind]
                for kind in InfractionKind
            },
            'meta': {
                'route_length': self.route_length,
                'duration_game': self.seconds,
                'standing': self.standing,
            },
        }


@dataclass(frozen=True)
class Summary:
    """Means over routes.

    Attributes:
        driving_score: 0 to 100.
        route_completion: percent.
        penalty: 0 to 1.
        per_kilometer: infractions of each kind per kilometer of completed route.
    """

    driving_score: float
    route_completion: float
    penalty: float
    per_kilometer: dict[InfractionKind, float]


def summarize(results: Sequence[RouteResult]) -> Summary:
    """Average the scores over routes; infractions are counted per kilometer of all routes together.

    Raises:
        ValueError: if there is no route.
    """
    if not results:
        raise ValueError('no route was driven: there is nothing to score')
    kilometers = max(sum(min(result.completed, result.route_length) for result in results) / 1000.0, 1e-3)
    return Summary(
        driving_score=sum(result.driving_score for result in results) / len(results),
        route_completion=sum(result.route_completion for result in results) / len(results),
        penalty=sum(result.penalty for result in results) / len(results),
        per_kilometer={
            kind: sum(result.count(kind) for result in results) / kilometers for kind in InfractionKind
        },
    )


def leaderboard_json(results: Sequence[RouteResult], sensors: Sequence[str] = ()) -> dict[str, Any]:
    """Results in the structure of the leaderboard's checkpoint file.

    Args:
        results: of the routes, in their order.
        sensors: names of the sensors that the policy uses.
    """
    summary = summarize(results)
    per_kilometer = {kind.value: rate for kind, rate in summary.per_kilometer.items()}
    all_completed = all(result.status == STATUS_COMPLETED for result in results)
    values = [
        summary.driving_score,
        summary.route_completion,
        summary.penalty,
        *(summary.per_kilometer[kind] for kind in InfractionKind),
    ]
    return {
        '_checkpoint': {
            'global_record': {
                'index': -1,
                'route_id': -1,
                'status': STATUS_COMPLETED if all_completed else STATUS_FAILED,
                'scores': {
                    'score_route': summary.route_completion,
                    'score_penalty': summary.penalty,
                    'score_composed': summary.driving_score,
                },
                'infractions': per_kilometer,
                'meta': {},
            },
            'progress': [len(results), len(results)],
            'records': [result.record(index) for index, result in enumerate(results)],
        },
        'eligible': True,
        'entry_status': 'Finished',
        'labels': [
            'Avg. driving score',
            'Avg. route completion',
            'Avg. infraction penalty',
            *(LABELS[kind] for kind in InfractionKind),
        ],
        'sensors': list(sensors),
        'values': [f'{value:.3f}' for value in values],
    }


def write_results(results: Sequence[RouteResult], path: Path, sensors: Sequence[str] = ()) -> None:
    """Write ``leaderboard_json`` to a file; it appears whole or not at all."""
    content = json.dumps(leaderboard_json(results, sensors), indent=1, allow_nan=False)
    write_text(path, content)
