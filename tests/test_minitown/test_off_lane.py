"""How traffic and pedestrians react to an ego that has left its lane."""

import math

import numpy as np
import pytest

from thinktwice.closed_loop.criteria import boxes_touch
from thinktwice.minitown import Control, Drive
from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF, EgoState
from thinktwice.minitown.traffic.vehicles import Vehicle

STAND = Control(brake=1.0)


def place_ego(drive: Drive, x: float, y: float, yaw: float) -> None:
    drive.ego = EgoState(x, y, yaw, 0.0)
    drive.step(STAND)


def approaching(drive: Drive, distance: float) -> Vehicle:
    """A moving vehicle with `distance` free meters of its street ahead, away from all others."""
    for vehicle in drive.traffic.vehicles[1:]:
        lane = drive.town.layout.lanes[vehicle.route[0]]
        x, y, _ = lane.pose(vehicle.distance + distance)
        others = [other.pose for other in drive.traffic.vehicles if other is not vehicle]
        is_free = all(math.hypot(other[0] - x, other[1] - y) > 15.0 for other in others)
        remaining = lane.length - vehicle.distance - distance
        crosswalk = lane.crosswalk is not None and lane.crosswalk > vehicle.distance - 5.0
        if not lane.is_connector and vehicle.speed > 3.0 and remaining > 6.0 and is_free and not crosswalk:
            return vehicle
    pytest.fail('no such vehicle in this drive')


@pytest.mark.parametrize('turn', [math.pi / 2, math.pi, 0.7])
@pytest.mark.parametrize('town', ['town03_00', 'town05_00'])
def test_a_vehicle_stops_before_an_ego_that_stands_in_its_lane(town: str, turn: float) -> None:
    drive = Drive(town, 1)
    while True:
        drive.step()
        if drive.steps > 100:
            try:
                vehicle = approaching(drive, 25.0)
                break
            except pytest.fail.Exception:
                assert drive.steps < 1000
    lane = drive.town.layout.lanes[vehicle.route[0]]
    x, y, yaw = lane.pose(vehicle.distance + 25.0)
    place_ego(drive, x, y, yaw + turn)
    gaps = []
    for _ in range(400):
        drive.step(STAND)
        box = np.array([[*vehicle.pose, *vehicle.half[:2]]])
        assert not boxes_touch(np.array([*drive.ego.pose, *EGO_HALF[:2]]), box).any()
        gaps.append(math.hypot(vehicle.pose[0] - drive.ego.x, vehicle.pose[1] - drive.ego.y))
    assert vehicle.speed < 0.1
    assert vehicle.half[0] + EGO_HALF[1] < gaps[-1] < 10.0
    # When the ego is gone, the vehicle drives on.
    place_ego(drive, x + 300.0, y, yaw)
    for _ in range(100):
        drive.step(STAND)
    assert math.hypot(vehicle.pose[0] - x, vehicle.pose[1] - y) < 3.0 or vehicle.speed > 1.0


def trace_of_others(aside: float) -> list:
    """Where the others are while the ego stands `aside` meters beside its lane for 15 s."""
    drive = Drive('town03_00', 5)
    for _ in range(60):
        drive.step()
    x, y, yaw = drive.ego.pose
    place_ego(drive, x - aside * math.sin(yaw), y + aside * math.cos(yaw), yaw)
    trace = []
    for _ in range(300):
        drive.step(STAND)
        trace.append([actor.pose for actor in drive.traffic.vehicles[1:] + drive.crowd.pedestrians])
    return trace


def test_nobody_brakes_for_an_ego_off_the_road() -> None:
    far_away = trace_of_others(400.0)
    assert trace_of_others(12.0) == far_away
    assert trace_of_others(0.0) != far_away, 'somebody has to follow the ego in this drive'


@pytest.mark.parametrize(
    ('offset', 'speed', 'crosses'),
    [
        ((0.0, 0.0), 0.0, False),  # on the path
        ((-20.0, 0.0), 8.0, False),  # drives toward it
        ((-20.0, 0.0), 0.0, True),  # stands before it
        ((20.0, 0.0), 8.0, True),  # has passed it
        ((0.0, 30.0), 8.0, True),  # drives elsewhere
    ],
)
def test_a_pedestrian_looks_at_the_real_place_of_an_ego_off_its_lane(offset, speed, crosses) -> None:
    drive = Drive('town03_00', 5)
    crowd, layout = drive.crowd, drive.town.layout
    pedestrian = next(one for one in crowd.pedestrians if one.crosswalk >= 0 and one.speed == 0.0)
    crosswalk = layout.crosswalks[pedestrian.crosswalk]
    yaw = math.atan2(-crosswalk.across[0], crosswalk.across[1])
    ahead = np.array([math.cos(yaw), math.sin(yaw)])
    x, y = crosswalk.center + offset[0] * ahead + offset[1] * crosswalk.across
    lane = layout.lanes[crosswalk.lanes[0]]
    pedestrian.wait = 0.0
    # Its own route says that it is on the crosswalk, which it left.
    ego = Vehicle(0, [lane.index], lane.crosswalk, speed, 8.0, EGO_HALF, pose=(x, y, yaw), is_on_lane=False)
    crowd.step(0.05, [ego])
    assert (pedestrian.speed > 0.0) is crosses


def test_a_vehicle_does_not_enter_a_junction_across_which_the_ego_stands() -> None:
    drive = Drive('town05_00', 3)
    lanes, traffic = drive.town.layout.lanes, drive.traffic
    for _ in range(2000):
        drive.step(STAND)
        waiting = [
            vehicle
            for vehicle in traffic.vehicles[1:]
            if vehicle.speed < 0.1
            and not lanes[vehicle.route[0]].is_connector
            and lanes[vehicle.route[0]].length - vehicle.distance < vehicle.half[0] + 2.0
        ]
        if waiting:
            break
    vehicle = waiting[0]
    connector = lanes[vehicle.route[1]]
    x, y, yaw = connector.pose(connector.length / 2)
    place_ego(drive, x, y, yaw + math.pi / 2)
    for _ in range(600):
        drive.step(STAND)
        assert vehicle.route[1] == connector.index
    assert vehicle.speed < 0.1
