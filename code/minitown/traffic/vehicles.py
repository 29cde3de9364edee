"""Vehicles on lanes: car following, right of way at lights and junctions, crosswalks.

The position of every vehicle, the ego included, is a lane and the distance along it. Only the
ego can leave its lane; the others then react to its box, wherever it blocks their way.
Acceleration is that of the Intelligent Driver Model (Treiber et al., 2000) toward the most
restrictive of: the vehicle ahead, a stop line, a crosswalk in use, a lower speed limit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from thinktwice.geometry.poses import world_to_ego
from thinktwice.geometry.route_planner import RoadOption
from thinktwice.minitown.traffic.signals import Signals
from thinktwice.minitown.world.classes import GREEN, RED, YELLOW
from thinktwice.minitown.world.lanes import STEP, Lane
from thinktwice.minitown.world.layout import Layout

LOOK_AHEAD = 60.0
COMFORTABLE_BRAKE = 2.5
MAX_ACCELERATION = 2.2
HARD_BRAKE = 6.0
STANDSTILL_GAP = 2.5
TIME_HEADWAY = 1.2
SPEED_CHANGE_BRAKE = 1.6
ONCOMING_REACH = 22.0
SHARED_START = 5.0
"""Meters over which connectors that start at the same lane still overlap."""
CLEARING_SECONDS = 1.2
PAUSE_RATE = 0.004
PAUSE_CLEARANCE = 28.0
"""Unplanned stops per second, and their minimum distance to a junction in meters."""
PASSING_CLEARANCE = 1.35
"""Half the width that a vehicle needs to pass the ego, meters."""


@dataclass
class Vehicle:
    """A vehicle on its lane.

    Attributes:
        index: 0 is the ego.
        route: Lane indices, starting with the current lane.
        distance: Of the vehicle's center along `route[0]`, meters.
        speed: m/s; `acceleration` m/s^2.
        cruise: Desired speed, m/s.
        half: (half length, half width, half height) in meters.
        pose: World x, y in meters, yaw in radians.
        pause: Remaining seconds of an unplanned stop.
        is_on_lane: Whether `route` and `distance` say where the vehicle is. Of an ego off its lane they say
            where its route is nearest.
    """

    index: int
    route: list[int]
    distance: float
    speed: float
    cruise: float
    half: tuple[float, float, float]
    color: tuple[float, float, float] = (180.0, 180.0, 180.0)
    acceleration: float = 0.0
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pause: float = 0.0
    is_on_lane: bool = True

    @property
    def is_braking(self) -> bool:
        """Whether the brake lights are on."""
        return self.acceleration < -0.6 or (self.speed < 0.1 and self.acceleration <= 0.05)


def idm_acceleration(speed: float, cruise: float, gap: float, approach: float) -> float:
    """Acceleration of the Intelligent Driver Model, m/s^2.

    Args:
        speed: Own speed, m/s.
        cruise: Desired speed, m/s.
        gap: Distance to the obstacle in meters, infinite without one.
        approach: Own speed minus the obstacle's, m/s.
    """
    free = 1.0 - (speed / max(cruise, 0.1)) ** 4
    brake = 2.0 * math.sqrt(MAX_ACCELERATION * COMFORTABLE_BRAKE)
    desired_gap = STANDSTILL_GAP + max(0.0, speed * TIME_HEADWAY + speed * approach / brake)
    acceleration = MAX_ACCELERATION * (max(free, -1.0) - (desired_gap / max(gap, 0.1)) ** 2)
    return max(-HARD_BRAKE, acceleration)


@dataclass
class Traffic:
    """All vehicles of a drive, and which of them may enter which junction.

    Attributes:
        vehicles: The ego first.
        crosswalk_blocked: Whether pedestrians block crosswalk i on lane j.
        time: Seconds since the drive began.
        entered: Connector that a vehicle, by index, has the right of way on.
    """

    layout: Layout
    signals: Signals
    vehicles: list[Vehicle]
    rng: np.random.Generator
    crosswalk_blocked: Callable[[int, int], bool]
    time: float = 0.0
    entered: dict[int, int] = field(default_factory=dict)
    _by_lane: dict[int, list[Vehicle]] = field(default_factory=dict)
    _blocked: dict[int, list[float]] = field(default_factory=dict)

    @cached_property
    def _lane_points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (N, 2) of all lanes, the lane of each, and its distance along it in meters."""
        lanes = self.layout.lanes
        counts = [len(lane.points) for lane in lanes]
        along = [np.linspace(0.0, lane.length, len(lane.points)) for lane in lanes]
        points = np.concatenate([lane.points for lane in lanes])
        return points, np.repeat(np.arange(len(lanes)), counts), np.concatenate(along)

    def _find_blocked(self, ego: Vehicle) -> dict[int, list[float]]:
        """Distances along each lane, ascending, at which the ego's box leaves no room to pass."""
        points, lanes, along = self._lane_points
        reach = math.hypot(*ego.half[:2]) + PASSING_CLEARANCE
        near = np.flatnonzero((np.abs(points - ego.pose[:2]) < reach).all(1))
        outside = np.maximum(np.abs(world_to_ego(points[near], ego.pose)) - ego.half[:2], 0.0)
        blocked: dict[int, list[float]] = {}
        for index in near[np.hypot(*outside.T) < PASSING_CLEARANCE].tolist():
            blocked.setdefault(int(lanes[index]), []).append(float(along[index]))
        return blocked

    def refresh(self) -> None:
        """Assign vehicles to lanes and end the right of way of those that left a junction."""
        self._by_lane, self._blocked = {}, {}
        for vehicle in self.vehicles:
            if not vehicle.is_on_lane:
                self.entered.pop(vehicle.index, None)
                self._blocked = self._find_blocked(vehicle)
                continue
            self._by_lane.setdefault(vehicle.route[0], []).append(vehicle)
            connector = self.entered.get(vehicle.index)
            has_left = connector is not None and connector not in vehicle.route[:2]
            # The rear stays in the junction until the center is half a vehicle length beyond it.
            if has_left and vehicle.distance > vehicle.half[0] + 0.5:
                del self.entered[vehicle.index]
        for vehicles in self._by_lane.values():
            vehicles.sort(key=lambda vehicle: vehicle.distance)

    def acceleration(self, vehicle: Vehicle) -> float:
        """Return the desired acceleration of a vehicle in m/s^2, and update its right of way."""
        lanes = self.layout.lanes
        cruise = min(vehicle.cruise, lanes[vehicle.route[0]].speed_limit)
        gap, approach = math.inf, 0.0
        result = math.inf
        base = -vehicle.distance
        for place, index in enumerate(vehicle.route):
            lane = lanes[index]
            if base > LOOK_AHEAD:
                break
            if place:
                reachable = math.sqrt(lane.speed_limit**2 + 2 * SPEED_CHANGE_BRAKE * max(0.0, base - 0.5))
                cruise = min(cruise, reachable)
            leader = self._leader(vehicle, index, place)
            if leader is not None and math.isinf(gap):
                gap = base + leader.distance - leader.half[0] - vehicle.half[0]
                approach = vehicle.speed - leader.speed
            if self._blocked and vehicle.index:
                result = min(result, self._behind_ego(vehicle, lane, base, place == 0))
            if lane.crosswalk is not None and self.crosswalk_blocked(lane.crosswalk_index, index):
                to_line = base + lane.crosswalk - 3.0 - vehicle.half[0]
                if to_line > -1.0:
                    result = min(result, self._stop(vehicle, to_line))
            if not lane.is_connector and place + 1 < len(vehicle.route):
                to_line = base + lane.length - 1.0 - vehicle.half[0]
                if not self._may_enter(vehicle, lane, lanes[vehicle.route[place + 1]], to_line):
                    result = min(result, self._stop(vehicle, to_line))
                    break
            base += lane.length
        result = min(result, idm_acceleration(vehicle.speed, cruise, gap, approach))
        if vehicle.pause > 0:
            result = min(result, -2.0)
        return result

    def _behind_ego(self, vehicle: Vehicle, lane: Lane, base: float, is_own: bool) -> float:
        """Acceleration behind the ego that is off its lane and blocks `lane`, infinite if it does not.

        Args:
            vehicle: That has to stop.
            lane: Of its route.
            base: Distance from the vehicle to the lane's beginning, meters.
            is_own: Whether the vehicle is on that lane, where only what is ahead of it counts.
        """
        places = self._blocked.get(lane.index, [])
        first = next((at for at in places if not is_own or at > vehicle.distance), None)
        if first is None:
            return math.inf
        ego = self.vehicles[0]
        ego_speed = ego.speed * math.cos(ego.pose[2] - lane.pose(first)[2])
        gap = base + first - vehicle.half[0]
        return idm_acceleration(vehicle.speed, vehicle.cruise, gap, vehicle.speed - ego_speed)

    def _leader(self, vehicle: Vehicle, index: int, place: int) -> Vehicle | None:
        """Return the next vehicle on lane `index`, ahead of `vehicle` if that is its own lane.

        At the start of a connector this may be a vehicle on one of its siblings.
        """
        leader = None
        for other in self._by_lane.get(index, ()):
            if other is not vehicle and (place or other.distance > vehicle.distance):
                leader = other
                break
        for sibling in self.layout.lanes[index].siblings:
            for other in self._by_lane.get(sibling, ()):
                is_ahead = place or other.distance > vehicle.distance
                is_nearer = leader is None or other.distance < leader.distance
                if is_ahead and is_nearer and other.distance - other.half[0] < SHARED_START:
                    leader = other
        return leader

    @staticmethod
    def _stop(vehicle: Vehicle, to_line: float) -> float:
        """Acceleration that stops the vehicle's front half a meter before a line."""
        return idm_acceleration(vehicle.speed, 30.0, max(to_line, 0.0) + STANDSTILL_GAP - 0.5, vehicle.speed)

    def _may_enter(self, vehicle: Vehicle, lane: Lane, connector: Lane, to_line: float) -> bool:
        """Decide whether a vehicle may cross the stop line at the end of `lane`."""
        junction = self.layout.junctions[lane.end]
        if not junction.has_lights:
            return True
        state = self.signals.state(junction.index, lane.heading_index, self.time)
        holds = self.entered.get(vehicle.index) == connector.index
        needed = vehicle.speed**2 / (2 * 3.5)
        # A vehicle that waits at the line to turn left clears the junction while the light stays yellow.
        later = self.signals.state(junction.index, lane.heading_index, self.time + CLEARING_SECONDS)
        may_clear = later == YELLOW and connector.option == RoadOption.LEFT and to_line < 2.0
        if state != GREEN and to_line > needed and not (holds and to_line < 0.3) and not may_clear:
            if holds:
                del self.entered[vehicle.index]
            return False
        if holds or to_line < -0.5:
            return True
        if state == RED and to_line > 0.5:
            return False
        if to_line > vehicle.speed**2 / (2 * COMFORTABLE_BRAKE) + 4.0:
            return True
        if self._is_contested(vehicle, lane, connector):
            return False
        if vehicle.is_on_lane:
            self.entered[vehicle.index] = connector.index
        return True

    def _is_contested(self, vehicle: Vehicle, lane: Lane, connector: Lane) -> bool:
        """Whether another vehicle uses or blocks `connector`, or is about to use it."""
        if any(way in connector.conflicts for owner, way in self.entered.items() if owner != vehicle.index):
            return True
        if vehicle.index and connector.index in self._blocked:
            return True
        exit_lane = connector.successors[0]
        last = next(iter(self._by_lane.get(exit_lane, ())), None)
        if last and last.distance - last.half[0] < 2 * vehicle.half[0] + 2.0 and last.speed < 2.0:
            return True
        if connector.option != RoadOption.LEFT:
            return False
        return any(
            other.index != vehicle.index
            and other.is_on_lane
            and len(other.route) > 1
            and other.route[1] in connector.conflicts
            and self.layout.lanes[other.route[0]].end == lane.end
            and self.layout.lanes[other.route[0]].heading_index == (lane.heading_index + 2) % 4
            and self.layout.lanes[other.route[0]].length - other.distance < ONCOMING_REACH
            and self.signals.state(lane.end, (lane.heading_index + 2) % 4, self.time) != RED
            for other in self.vehicles
        )

    def move(self, vehicle: Vehicle, acceleration: float, seconds: float) -> None:
        """Advance a vehicle that follows its lanes (all but the ego)."""
        vehicle.acceleration = acceleration
        speed = max(0.0, vehicle.speed + acceleration * seconds)
        vehicle.distance += 0.5 * (vehicle.speed + speed) * seconds
        vehicle.speed = speed
        lanes = self.layout.lanes
        while vehicle.distance >= lanes[vehicle.route[0]].length:
            vehicle.distance -= lanes[vehicle.route.pop(0)].length
        self.extend(vehicle)
        vehicle.pose = lanes[vehicle.route[0]].pose(vehicle.distance)
        if vehicle.pause > 0:
            vehicle.pause -= seconds
            return
        lane = lanes[vehicle.route[0]]
        may_pause = not lane.is_connector and lane.length - vehicle.distance > PAUSE_CLEARANCE
        if self.rng.random() < PAUSE_RATE * seconds and may_pause:
            vehicle.pause = float(self.rng.uniform(3.0, 6.0))

    def extend(self, vehicle: Vehicle) -> None:
        """Append random lanes until the route covers the look-ahead distance."""
        lanes = self.layout.lanes
        ahead = sum(lanes[index].length for index in vehicle.route) - vehicle.distance
        while ahead < LOOK_AHEAD + STEP or len(vehicle.route) < 3:
            choices = lanes[vehicle.route[-1]].successors
            vehicle.route.append(choices[int(self.rng.integers(len(choices)))])
            ahead += lanes[vehicle.route[-1]].length
