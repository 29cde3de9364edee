import json
from pathlib import Path

import pytest

from thinktwice.closed_loop.scoring import (
    Infraction,
    InfractionKind,
    RouteResult,
    leaderboard_json,
    summarize,
    write_results,
)

K = InfractionKind


def result(
    *kinds: K, route_id: str = 'r', length: float = 200.0, completed: float = 200.0, outside: float = 0.0
):
    events = tuple(Infraction(kind, 1.5 * i, (3.0, -4.0), 'x') for i, kind in enumerate(kinds))
    return RouteResult(route_id, length, completed, completed, outside, 60.0, infractions=events)


def test_published_factors_multiply() -> None:
    assert result().driving_score == 100.0
    every = result(K.COLLISION_PEDESTRIAN, K.COLLISION_VEHICLE, K.COLLISION_STATIC, K.RED_LIGHT, K.STOP_SIGN)
    assert every.penalty == pytest.approx(0.5 * 0.6 * 0.65 * 0.7 * 0.8)
    twice = result(K.RED_LIGHT, K.RED_LIGHT, completed=50.0)
    assert twice.driving_score == pytest.approx(25.0 * 0.49)


def test_distance_outside_the_lanes_lowers_the_penalty_in_proportion() -> None:
    assert result(completed=100.0, outside=20.0).driving_score == pytest.approx(50.0 * 0.8)
    assert result(completed=0.0).driving_score == 0.0


@pytest.mark.parametrize(
    ('kind', 'status'),
    [
        (K.ROUTE_DEVIATION, 'Failed - Agent deviated from the route'),
        (K.BLOCKED, 'Failed - Agent got blocked'),
        (K.ROUTE_TIMEOUT, 'Failed - Agent timed out'),
    ],
)
def test_what_ends_a_route_is_its_status_and_costs_only_completion(kind: K, status: str) -> None:
    ended = result(kind, completed=120.0)
    assert ended.status == status
    assert ended.driving_score == pytest.approx(60.0)
    assert result(K.RED_LIGHT).status == 'Completed'


def test_summary_averages_routes_and_counts_by_kilometer() -> None:
    results = [
        result(K.RED_LIGHT, completed=100.0),
        result(K.RED_LIGHT, K.COLLISION_VEHICLE, length=400, completed=400),
    ]
    summary = summarize(results)
    assert summary.driving_score == pytest.approx((50 * 0.7 + 100 * 0.7 * 0.6) / 2)
    assert summary.route_completion == pytest.approx(75.0)
    assert summary.penalty == pytest.approx((0.7 + 0.42) / 2)
    assert summary.per_kilometer[K.RED_LIGHT] == pytest.approx(2 / 0.5)
    with pytest.raises(ValueError, match='no route'):
        summarize([])


def test_file_is_read_as_the_leaderboard_s_tools_read_it(tmp_path: Path) -> None:
    """Those walk ``_checkpoint.records`` and average the scores, which is the global record."""
    results = [result(K.RED_LIGHT, route_id='RouteScenario_0'), result(K.BLOCKED, completed=30.0)]
    write_results(results, tmp_path / 'results.json', ['rgb_front'])
    content = json.loads((tmp_path / 'results.json').read_text())
    checkpoint = content['_checkpoint']
    records = checkpoint['records']
    assert [record['route_id'] for record in records] == ['RouteScenario_0', 'r']
    for name in ('score_route', 'score_penalty', 'score_composed'):
        mean = sum(record['scores'][name] for record in records) / len(records)
        assert checkpoint['global_record']['scores'][name] == pytest.approx(mean)
    for record in records:
        scores = record['scores']
        assert scores['score_composed'] == pytest.approx(scores['score_route'] * scores['score_penalty'])
        assert set(record['infractions']) == {kind.value for kind in K}
    assert len(records[0]['infractions']['red_light']) == 1
    assert '(x=3.0, y=-4.0)' in records[0]['infractions']['red_light'][0]
    assert checkpoint['global_record']['status'] == 'Failed'
    assert len(content['labels']) == len(content['values'])
    assert content['values'][0] == f'{checkpoint["global_record"]["scores"]["score_composed"]:.3f}'
    assert leaderboard_json(results, ['rgb_front']) == content
