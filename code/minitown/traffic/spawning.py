"""Places the vehicles of a drive on the streets."""

import numpy as np

from thinktwice.minitown.traffic.ego_dynamics import EGO_HALF, EgoState
from thinktwice.minitown.traffic.pedestrians import Crowd
from thinktwice.minitown.traffic.route import Route
from thinktwice.minitown.traffic.signals import Signals
from thinktwice.minitown.traffic.vehicles import Traffic, Vehicle
from thinktwice.minitown.world.layout import Layout

EGO = 0
EGO_CRUISE = 8.0
METERS_PER_VEHICLE = 100.0
SPAWN_GAP = 11.0
LEADER_CHANCE = 0.5
VEHICLE_SIZES = ((2.2, 0.95, 0.74), (2.0, 0.9, 0.78), (2.4, 0.98, 0.72), (2.9, 1.05, 1.2))
VEHICLE_COLORS = (
    (190, 40, 42),
    (40, 74, 150),
    (222, 222, 220),
    (36, 38, 42),
    (150, 154, 160),
    (200, 150, 40),
)


def _sample_vehicle(index: int, lane: int, distance: float, rng: np.random.Generator) -> Vehicle:
    """Sample size, color and desired speed of a vehicle."""
    color = np.clip(
        np.array(VEHICLE_COLORS[int(rng.integers(len(VEHICLE_COLORS)))]) + rng.normal(0, 10, 3), 15, 240
    )
    return Vehicle(
        index=index,
        route=[lane],
        distance=distance,
        speed=0.0,
        cruise=float(rng.uniform(4.5, 9.0)),
        half=VEHICLE_SIZES[int(rng.integers(len(VEHICLE_SIZES)))],
        color=(float(color[0]), float(color[1]), float(color[2])),
    )


def spawn_vehicles(
    layout: Layout,
    signals: Signals,
    crowd: Crowd,
    route: Route,
    start: float,
    ego: EgoState,
    rng: np.random.Generator,
) -> Traffic:
    """Return the traffic of a drive, the ego first.

    Args:
        layout: Of the town.
        signals: Of the drive.
        crowd: Of the drive.
        route: Of the ego.
        start: Distance of the ego along its route, meters.
        ego: State of the ego there.
        rng: Used by the traffic from here on.
    """
    place, distance = route.lane_at(start)
    vehicle = Vehicle(
        EGO, route.lane_indices[place : place + 6], distance, ego.speed, EGO_CRUISE, EGO_HALF, pose=ego.pose
    )
    traffic = Traffic(layout, signals, [vehicle], rng, crowd.is_blocked)
    if rng.random() < LEADER_CHANCE:
        _spawn_leader(traffic, route, start, rng)
    streets = [lane for lane in layout.lanes if not lane.is_connector]
    count = 1 + round(sum(lane.length for lane in streets) / METERS_PER_VEHICLE)
    for _ in range(20 * count):
        if len(traffic.vehicles) >= count:
            break
        lane = streets[int(rng.integers(len(streets)))]
        place_on_lane = float(rng.uniform(3.0, lane.length - 6.0))
        if _is_free(traffic, lane.index, place_on_lane):
            _add(traffic, _sample_vehicle(len(traffic.vehicles), lane.index, place_on_lane, rng))
    traffic.refresh()
    return traffic


def _is_free(traffic: Traffic, lane: int, distance: float) -> bool:
    """Whether no other vehicle and no crosswalk is near a place on a lane."""
    for other in traffic.vehicles:
        if other.route[0] == lane and abs(other.distance - distance) < SPAWN_GAP:
            return False
    crosswalk = traffic.layout.lanes[lane].crosswalk
    return crosswalk is None or abs(distance - crosswalk) > 7.0


def _add(traffic: Traffic, vehicle: Vehicle) -> None:
    traffic.extend(vehicle)
    vehicle.pose = traffic.layout.lanes[vehicle.route[0]].pose(vehicle.distance)
    traffic.vehicles.append(vehicle)


def _spawn_leader(traffic: Traffic, route: Route, start: float, rng: np.random.Generator) -> None:
    """Place a slow vehicle ahead of the ego that takes the same route for a while."""
    place, distance = route.lane_at(start + float(rng.uniform(14.0, 35.0)))
    lane = route.lane_indices[place]
    if traffic.layout.lanes[lane].is_connector or not _is_free(traffic, lane, distance):
        return
    leader = _sample_vehicle(len(traffic.vehicles), lane, distance, rng)
    leader.cruise = float(rng.uniform(3.0, 6.5))
    leader.route = route.lane_indices[place : place + 8]
    _add(traffic, leader)
