"""How vehicles, pedestrians and lights behave, without sensors."""

import math

import numpy as np
import pytest

from thinktwice.geometry.route_planner import RoadOption
from thinktwice.minitown import Control, Drive
from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF
from thinktwice.minitown.traffic.vehicles import idm_acceleration
from thinktwice.minitown.world.classes import GREEN, RED, YELLOW
from thinktwice.minitown.world.layout import build_layout
from thinktwice.minitown.world.town import TOWN_NUMBERS

SECONDS = 50.0
DRIVES = [('town01_00', 0), ('town03_00', 1), ('town05_00', 2), ('town06_00', 0), ('town02_00', 1)]


def box(pose, half):
    """Corners (4, 2) of a box on the ground."""
    x, y, yaw = pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) * half[:2]
    return np.array([x, y]) + signs @ np.array([[cos, sin], [-sin, cos]])


def boxes_overlap(first, second):
    """Separating axes of two rectangles."""
    for shape in (first, second):
        for axis in (shape[1] - shape[0], shape[2] - shape[1]):
            one, two = first @ axis, second @ axis
            if one.max() < two.min() or two.max() < one.min():
                return False
    return True


class Log:
    """What happened in a drive, watched at every step."""

    def __init__(self, town, number):
        drive = Drive(town, 8, number, SECONDS)
        layout = drive.town.layout
        self.speeds, self.offsets, self.steer = [], [], []
        self.red_crossings, self.red_stops, self.collisions, self.follows = 0, 0, 0, 0
        self.options = set()
        for step in range(int(SECONDS / 0.05)):
            front_before = drive.route.lane_at(drive.along + EGO_HALF[0])[0]
            drive.step()
            front_after = drive.route.lane_at(drive.along + EGO_HALF[0])[0]
            lane = layout.lanes[drive.route.lane_indices[front_before]]
            light = layout.junctions[lane.end].has_lights and not lane.is_connector
            state = drive.signals.state(lane.end, lane.heading_index, drive.time)
            if light and state == RED:
                self.red_crossings += front_after != front_before
                near_line = lane.length - drive.route.lane_at(drive.along)[1] < 6.0
                self.red_stops += near_line and drive.ego.speed < 0.1
            if step % 5 == 0:
                self._look(drive)

    def _look(self, drive):
        ego = drive.ego
        self.speeds.append(ego.speed)
        self.steer.append(drive.decision.steer)
        here = np.array(drive.route.position(drive.along))
        self.offsets.append(np.hypot(*(here - (ego.x, ego.y))))
        lane = drive.town.layout.lanes[drive.route.lane_indices[drive.route.lane_at(drive.along)[0]]]
        self.options.add(lane.option)
        own = box(ego.pose, EGO_HALF)
        others = [(vehicle.pose, vehicle.half) for vehicle in drive.traffic.vehicles[1:]]
        others += [(pedestrian.pose, (0.3, 0.3)) for pedestrian in drive.crowd.pedestrians]
        for pose, half in others:
            if math.hypot(pose[0] - ego.x, pose[1] - ego.y) < 8.0:
                self.collisions += boxes_overlap(own, box(pose, half))


@pytest.fixture(scope='module')
def logs():
    return [Log(town, number) for town, number in DRIVES]


def test_the_expert_never_enters_on_red_and_does_stop_for_it(logs):
    assert sum(log.red_crossings for log in logs) == 0
    assert sum(log.red_stops for log in logs) > 20


def test_the_expert_touches_nobody(logs):
    assert sum(log.collisions for log in logs) == 0


def test_the_expert_keeps_its_lane(logs):
    for log in logs:
        assert np.mean(log.offsets) < 0.1
        assert np.max(log.offsets) < 0.5


def test_drives_have_turns_both_ways_stops_and_many_speeds(logs):
    speeds = np.concatenate([log.speeds for log in logs])
    assert speeds.min() < 0.1
    assert 6.0 < speeds.max() < 9.0
    assert np.all(np.histogram(speeds, [0.1, 2, 4, 6, 8])[0] > 20)
    assert 0.05 < np.mean(speeds < 0.1) < 0.5
    steer = np.concatenate([log.steer for log in logs])
    assert steer.min() < -0.2
    assert steer.max() > 0.2
    assert {RoadOption.LEFT, RoadOption.RIGHT, RoadOption.LANE_FOLLOW} <= set.union(
        *(log.options for log in logs)
    )


def test_vehicles_do_not_run_into_each_other():
    drive = Drive('town03_00', 5, 0, 30.0)
    moved = {}
    for step in range(600):
        drive.step()
        if step % 10:
            continue
        vehicles = drive.traffic.vehicles
        for place, first in enumerate(vehicles):
            moved.setdefault(first.index, []).append(first.pose[:2])
            for second in vehicles[:place]:
                if math.hypot(first.pose[0] - second.pose[0], first.pose[1] - second.pose[1]) < 7.0:
                    assert not boxes_overlap(box(first.pose, first.half), box(second.pose, second.half))
    traveled = [np.ptp(np.array(places), axis=0).max() for places in moved.values()]
    assert np.mean(np.array(traveled) > 20.0) > 0.7


def test_lights_change_in_order_and_crossing_streets_never_both_go():
    drive = Drive('town05_00', 1)
    junctions = [junction for junction in drive.town.layout.junctions if junction.has_lights]
    assert len(junctions) >= 4
    for junction in junctions:
        times = np.arange(0, 60, 0.25)
        first, second = ([drive.signals.state(junction.index, axis, t) for t in times] for axis in (0, 1))
        assert set(first) == set(second) == {GREEN, YELLOW, RED}
        assert all(RED in pair for pair in zip(first, second, strict=True))
        after = {GREEN: YELLOW, YELLOW: RED, RED: GREEN}
        changes = [(a, b) for a, b in zip(first, first[1:], strict=False) if a != b]
        assert changes
        assert all(after[a] == b for a, b in changes)


def test_a_vehicle_closes_up_and_stops_behind_an_obstacle():
    speed, gap, gaps = 8.0, 50.0, []
    for _ in range(600):
        acceleration = idm_acceleration(speed, 8.0, gap, speed)
        assert -6.0 <= acceleration <= 2.2
        gap -= speed * 0.05
        speed = max(0.0, speed + acceleration * 0.05)
        gaps.append(gap)
    assert speed < 0.05
    assert 1.5 < min(gaps) < 4.0


def test_full_brake_and_full_throttle_from_outside_move_the_ego():
    drive = Drive('town01_00', 2, 0)
    for _ in range(60):
        drive.step(Control(brake=1.0))
    assert drive.ego.speed == 0.0
    x, y, yaw = drive.ego.pose
    for _ in range(40):
        drive.step(Control(throttle=0.5))
    ahead = (drive.ego.x - x) * math.cos(yaw) + (drive.ego.y - y) * math.sin(yaw)
    assert ahead == pytest.approx(math.hypot(drive.ego.x - x, drive.ego.y - y))
    assert 2.5 < drive.ego.speed < 5.0
    assert ahead > 2.0
    for _ in range(20):
        drive.step(Control(throttle=0.3, steer=0.5))
    assert drive.ego.yaw > yaw + 0.2


def test_same_seed_same_drive_other_seed_another():
    def trace(seed, number):
        drive = Drive('town02_00', seed, number)
        for _ in range(100):
            drive.step()
        return [actor.pose for actor in drive.traffic.vehicles + drive.crowd.pedestrians]

    assert trace(1, 0) == trace(1, 0)
    assert trace(1, 0) != trace(2, 0)
    assert trace(1, 0) != trace(1, 1)


@pytest.mark.parametrize('number', TOWN_NUMBERS)
def test_every_town_is_drivable_and_has_all_kinds_of_ways(number):
    layout = build_layout(number)
    options = {lane.option for lane in layout.lanes}
    assert options == {1, 2, 3, 4}
    assert any(junction.has_lights for junction in layout.junctions)
    for lane in layout.lanes:
        assert lane.successors
        for index in lane.successors:
            following = layout.lanes[index]
            np.testing.assert_allclose(following.points[0], lane.points[-1], atol=1e-9)
            turn = following.headings[0] - lane.headings[-1]
            assert math.cos(turn) == pytest.approx(1.0)
    reached, frontier = {0}, [0]
    while frontier:
        for index in layout.lanes[frontier.pop()].successors:
            if index not in reached:
                reached.add(index)
                frontier.append(index)
    assert len(reached) == len(layout.lanes)


def test_towns_differ():
    lengths = {number: sum(lane.length for lane in build_layout(number).lanes) for number in TOWN_NUMBERS}
    assert len(set(lengths.values())) == len(TOWN_NUMBERS)
