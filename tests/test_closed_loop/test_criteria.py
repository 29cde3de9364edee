import math

import numpy as np
import pytest
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, box

from thinktwice.closed_loop.criteria import (
    BlockedCriterion,
    CollisionCriterion,
    DeviationCriterion,
    Judge,
    LaneCriterion,
    RedLightCriterion,
    Situation,
    TimeoutCriterion,
    boxes_touch,
    circles_touch,
    segments_cross,
)
from thinktwice.closed_loop.scoring import InfractionKind as K

NONE5, NONE3 = np.zeros((0, 5)), np.zeros((0, 3))


def situation(time: float = 0.0, x: float = 0.0, y: float = 0.0, yaw: float = 0.0, **values) -> Situation:
    made = dict(
        time=time,
        ego=np.array([x, y, yaw, 2.4, 1.0]),
        speed=5.0,
        progress=0.0,
        deviation=0.0,
        is_outside=False,
        vehicles=NONE5,
        pedestrians=NONE5,
        static_boxes=NONE5,
        static_circles=NONE3,
        stop_lines=np.zeros((0, 2, 2)),
        is_red=np.zeros(0, dtype=bool),
    )
    return Situation(**{**made, **values})


def polygon(row: np.ndarray):
    x, y, yaw, half_length, half_width = row
    shape = box(-half_length, -half_width, half_length, half_width)
    return translate(rotate(shape, math.degrees(yaw), origin=(0, 0)), x, y)


def test_overlaps_equal_shapely_s() -> None:
    rng = np.random.default_rng(3)
    own = np.array([1.0, -2.0, 0.4, 2.4, 1.0])
    scale, shift = [8, 8, 2 * math.pi, 2.5, 1.5], [-3, -6, 0, 0.2, 0.2]
    boxes = rng.random((500, 5)) * scale + shift
    expected = [polygon(own).intersects(polygon(row)) for row in boxes]
    assert boxes_touch(own, boxes).tolist() == expected
    assert 50 < sum(expected) < 450

    circles = rng.random((500, 3)) * [8, 8, 1.0] + [-3, -6, 0.05]
    expected = [polygon(own).distance(Point(x, y)) <= radius for x, y, radius in circles]
    assert circles_touch(own, circles).tolist() == expected

    lines = rng.random((500, 2, 2)) * 8 - 4
    expected = [LineString([(0, 0), (1.5, 0.5)]).intersects(LineString(line)) for line in lines]
    assert segments_cross(np.zeros(2), np.array([1.5, 0.5]), lines).tolist() == expected


def test_a_contact_that_goes_on_is_one_collision_and_comes_again_after_some_time() -> None:
    criterion = CollisionCriterion(memory=5.0)
    car = np.array([[4.0, 0.0, math.pi / 2, 2.0, 0.9]])

    def kinds(time: float, x: float) -> list[K]:
        return [event.kind for event in criterion.step(situation(time, x, vehicles=car))]

    assert kinds(0.0, 0.0) == []
    assert kinds(0.1, 1.0) == [K.COLLISION_VEHICLE]
    assert kinds(0.2, 1.1) == []
    assert kinds(1.0, 0.0) == []
    assert kinds(3.0, 1.0) == []  # bumps into it again
    assert kinds(9.0, 1.0) == [K.COLLISION_VEHICLE]


def test_each_thing_that_is_hit_has_its_kind() -> None:
    ahead = np.array([[2.5, 0.0, 0.0, 0.3, 0.3]])
    pole = np.array([[0.0, 1.1, 0.15], [0.0, 1.2, 0.15]])
    events = CollisionCriterion().step(situation(pedestrians=ahead, static_boxes=ahead, static_circles=pole))
    assert [event.kind for event in events] == [
        K.COLLISION_PEDESTRIAN,
        K.COLLISION_STATIC,
        K.COLLISION_STATIC,
    ]


@pytest.mark.parametrize(('is_red', 'expected'), [(True, [K.RED_LIGHT]), (False, [])])
def test_stop_line_is_passed_by_the_front_at_red(is_red: bool, expected: list[K]) -> None:
    criterion = RedLightCriterion()
    line = dict(stop_lines=np.array([[[5.0, -1.7], [5.0, 1.7]]]), is_red=np.array([is_red]))
    events = [event for step in range(40) for event in criterion.step(situation(x=0.1 * step, **line))]
    assert [event.kind for event in events] == expected
    if expected:
        assert events[0].position[0] + 2.4 == pytest.approx(5.0, abs=0.11)


def test_a_line_beside_the_way_and_one_reached_exactly_are_no_infraction_until_passed() -> None:
    criterion = RedLightCriterion()
    lines = dict(
        stop_lines=np.array([[[5.0, 2.0], [5.0, 5.0]], [[3.4, -1.7], [3.4, 1.7]]]),
        is_red=np.array([True, True]),
    )
    assert criterion.step(situation(x=0.0, **lines)) == []
    stands = criterion.step(situation(x=1.0, **lines))  # the front is on the second line
    passes = criterion.step(situation(x=1.5, **lines))
    assert [event.detail for event in stands + passes] == ['stop line 1']
    assert criterion.step(situation(x=6.0, **lines)) == []


def test_distance_outside_the_lanes_is_measured_and_each_excursion_reported_once() -> None:
    criterion = LaneCriterion()
    outside = [False, True, True, False, True]
    events = [criterion.step(situation(x=2.0 * i, is_outside=out)) for i, out in enumerate(outside)]
    assert [len(found) for found in events] == [0, 1, 0, 0, 1]
    assert criterion.driven == pytest.approx(8.0)
    assert criterion.outside == pytest.approx(6.0)


def test_deviation_standing_and_time_end_a_route_at_their_limits() -> None:
    deviation = DeviationCriterion(30.0)
    assert deviation.step(situation(deviation=29.9)) == []
    assert [event.kind for event in deviation.step(situation(deviation=30.1))] == [K.ROUTE_DEVIATION]

    blocked = BlockedCriterion(max_seconds=10.0)
    times = [(0.0, 5.0), (4.0, 0.0), (9.0, 0.0), (9.5, 1.0), (15.0, 0.0), (19.4, 0.0), (19.6, 0.0)]
    found = [len(blocked.step(situation(time, speed=speed))) for time, speed in times]
    assert found == [0, 0, 0, 0, 0, 0, 1]
    assert blocked.standing == pytest.approx(4.0 + 5.0 + 5.5 + 4.4 + 0.2)

    timeout = TimeoutCriterion(60.0)
    assert timeout.step(situation(60.0)) == []
    assert [event.kind for event in timeout.step(situation(60.05))] == [K.ROUTE_TIMEOUT]


def test_judge_gathers_what_all_criteria_find() -> None:
    judge = Judge(max_seconds=1.0)
    pole = np.array([[2.5, 0.0, 0.2]])
    judge.step(situation(0.5, static_circles=pole))
    judge.step(situation(1.5, static_circles=pole, is_outside=True, x=0.1))
    assert [event.kind for event in judge.infractions] == [
        K.COLLISION_STATIC, K.OUTSIDE_LANES, K.ROUTE_TIMEOUT,
    ]  # fmt: skip
