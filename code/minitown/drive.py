"""One drive: a town, its traffic and the ego, simulated at 20 Hz.

`Drive.step` takes a control of the ego or lets the expert drive. `Drive.scene` with
`Drive.ego.pose` is the input of the sensors; `Drive.measurements` gives the other inputs of
an agent.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thinktwice.geometry.poses import ego_to_world
from thinktwice.geometry.route_planner import RouteNode, RoutePlanner, downsample_route
from thinktwice.minitown.expert.policy import Decision, decide
from thinktwice.minitown.expert.teacher_view import ROUTE_POINTS, Snapshot, TeacherView
from thinktwice.minitown.traffic.actor_shapes import PEDESTRIAN_HALF, actor_shapes
from thinktwice.minitown.traffic.ego_dynamics import STEP_SECONDS, Control, EgoState, advance
from thinktwice.minitown.traffic.pedestrians import Crowd
from thinktwice.minitown.traffic.route import Route, sample_route
from thinktwice.minitown.traffic.signals import Signals
from thinktwice.minitown.traffic.spawning import EGO, spawn_vehicles
from thinktwice.minitown.world.primitives import PrimitiveSet, merge
from thinktwice.minitown.world.scene import Scene
from thinktwice.minitown.world.town import build_town, parse_town_name
from thinktwice.minitown.world.weather import draw_weather, make_lighting

STEPS_PER_CONTROL = 2
STEER_NOISE = 0.01
TOP_SPEED = 8.5
WARM_UP_SECONDS = (2.0, 8.0)
ON_LANE = (0.75, 0.4)
"""Offset in meters and angle in radians up to which the ego counts as being on its lane.

They are well above what the expert needs in turns, and leave room for the vehicles of the next lane.
"""


class Drive:
    """A seeded drive through a town.

    The drive begins in traffic: the expert drives the first 2 to 8 s.

    Args:
        town: Name, for example ``town01_00``: the number of the map and an index that sets the weather.
        seed: With `town` and `number` it determines everything that moves.
        number: Which drive of that town and seed.
        seconds: How long the route must last.

    Raises:
        ConfigError: The town is unknown.
    """

    def __init__(self, town: str, seed: int, number: int = 0, seconds: float = 60.0) -> None:
        map_number, index = parse_town_name(town)
        self.town = build_town(map_number)
        self.weather = draw_weather(map_number, index)
        self._lighting = make_lighting(self.weather)
        sources = np.random.SeedSequence([seed, map_number, index, number]).spawn(6)
        generators = [np.random.default_rng(source) for source in sources]
        place_rng, traffic_rng, crowd_rng, signal_rng, self._steer_rng, self._sensor_rng = generators
        layout = self.town.layout
        self.signals = Signals(layout, signal_rng)
        self.crowd = Crowd(layout, crowd_rng)
        start_lane, start = self._sample_start(place_rng)
        length = TOP_SPEED * (seconds + WARM_UP_SECONDS[1]) + 120.0
        self.route = Route.over(layout.lanes, sample_route(layout.lanes, start_lane, length, place_rng))
        self.along = start
        x, y, yaw = layout.lanes[start_lane].pose(start)
        self.ego = EgoState(x, y, yaw, float(place_rng.choice([0.0, 3.0, 5.0])))
        self.traffic = spawn_vehicles(
            layout, self.signals, self.crowd, self.route, start, self.ego, traffic_rng
        )
        self._view = TeacherView(self.town.ground)
        self._stop_lines = self._find_stop_lines()
        self._line_ends = np.array([line for _, _, line in self._stop_lines]).reshape(-1, 2, 2)
        self.steps = 0
        self._decided_at = -1
        self._decision: Decision | None = None
        self._snapshot_at = -1
        self._snapshot: Snapshot | None = None
        self._expert_control = Control()
        # Nodes behind the start would never be reached and would stay the target forever.
        nodes = self.route.nodes(start)
        sparse = downsample_route(nodes)
        self._planners = {
            'target': RoutePlanner(sparse, 4.0, 50.0),
            'far': RoutePlanner(sparse, 7.5, 25.0),
            'near': RoutePlanner(nodes, 4.0, 50.0),
        }
        for _ in range(round(float(place_rng.uniform(*WARM_UP_SECONDS)) / STEP_SECONDS / 10) * 10):
            self.step()

    @property
    def time(self) -> float:
        """Seconds since the drive was created."""
        return self.steps * STEP_SECONDS

    @property
    def deviation(self) -> float:
        """Distance of the ego from its route, meters."""
        x, y = self.route.position(self.along)
        return math.hypot(x - self.ego.x, y - self.ego.y)

    def _sample_start(self, rng: np.random.Generator) -> tuple[int, float]:
        streets = [lane for lane in self.town.layout.lanes if not lane.is_connector]
        lane = streets[int(rng.integers(len(streets)))]
        start = float(rng.uniform(4.0, lane.length - 18.0))
        # The ego does not start on a crosswalk, where pedestrians may already be walking.
        if lane.crosswalk is not None and abs(start - lane.crosswalk) < 9.0:
            start = lane.crosswalk + 9.0 if lane.length - lane.crosswalk > 25.0 else lane.crosswalk - 9.0
        return lane.index, start

    def _find_stop_lines(self) -> list[tuple[int, int, np.ndarray]]:
        """Return junction, approach and (2, 2) world ends of each stop line that has a light."""
        lines = []
        for lane in self.town.layout.lanes:
            if lane.is_connector or not self.town.layout.junctions[lane.end].has_lights:
                continue
            ends = ego_to_world([(0.0, -1.7), (0.0, 1.7)], lane.pose(lane.length))
            lines.append((lane.end, lane.heading_index, ends))
        return lines

    def step(self, control: Control | None = None) -> None:
        """Advance the simulation by 0.05 s.

        Args:
            control: Of the ego; None lets the expert drive, which decides on even steps.
        """
        if self.steps % STEPS_PER_CONTROL == 0:
            self._plan()
            control_of_expert = self.decision.control
            steer = control_of_expert.steer + float(self._steer_rng.normal(0.0, STEER_NOISE))
            self._expert_control = replace(control_of_expert, steer=steer)
        self.crowd.step(STEP_SECONDS, self.traffic.vehicles)
        for vehicle in self.traffic.vehicles[1:]:
            self.traffic.move(vehicle, self.traffic.acceleration(vehicle), STEP_SECONDS)
        self.ego = advance(self.ego, self._expert_control if control is None else control)
        self.steps += 1
        self.traffic.time = self.time
        self._sync_ego()
        self.traffic.refresh()

    def _plan(self) -> dict[str, RouteNode]:
        """Advance the planners; called rarely, they would miss nodes."""
        return {name: planner.step(-self.ego.y, self.ego.x) for name, planner in self._planners.items()}

    def _sync_ego(self) -> None:
        """Update the ego's vehicle in the traffic: its state, and its lane or that it has left it."""
        self.along = self.route.project(self.ego.x, self.ego.y, self.along)
        place, distance = self.route.lane_at(self.along)
        vehicle = self.traffic.vehicles[EGO]
        vehicle.route = self.route.lane_indices[place : place + 6]
        vehicle.distance, vehicle.speed, vehicle.pose = distance, self.ego.speed, self.ego.pose
        vehicle.acceleration = self.ego.acceleration
        x, y, yaw = self.town.layout.lanes[vehicle.route[0]].pose(distance)
        offset, turn = math.hypot(x - self.ego.x, y - self.ego.y), yaw - self.ego.yaw
        vehicle.is_on_lane = offset <= ON_LANE[0] and math.cos(turn) >= math.cos(ON_LANE[1])

    @property
    def decision(self) -> Decision:
        """Decision of the expert; on odd steps that of the step before."""
        due = self.steps - self.steps % STEPS_PER_CONTROL
        if self._decision is None or self._decided_at < due:
            snapshot = self.snapshot()
            self._view.remember(snapshot)
            target_acceleration = self.traffic.acceleration(self.traffic.vehicles[EGO])
            self._decision = decide(
                self.ego,
                self.route,
                self.along,
                target_acceleration,
                snapshot.vehicles,
                snapshot.pedestrians,
            )
            self._decided_at = self.steps
        return self._decision

    def snapshot(self) -> Snapshot:
        """Return the boxes of the other actors and the states of the lights, computed once per step."""
        if self._snapshot is None or self._snapshot_at != self.steps:
            self._snapshot, self._snapshot_at = self._take_snapshot(), self.steps
        return self._snapshot

    def _take_snapshot(self) -> Snapshot:
        vehicles = [(*vehicle.pose, *vehicle.half[:2]) for vehicle in self.traffic.vehicles[1:]]
        pedestrians = [(*pedestrian.pose, *PEDESTRIAN_HALF[:2]) for pedestrian in self.crowd.pedestrians]
        states = [
            self.signals.state(junction, approach, self.time) for junction, approach, _ in self._stop_lines
        ]
        return Snapshot(
            vehicles=np.array(vehicles).reshape(-1, 5),
            pedestrians=np.array(pedestrians).reshape(-1, 5),
            stop_lines=self._line_ends,
            light_states=np.array(states, dtype=np.int64),
        )

    def shapes(self) -> PrimitiveSet:
        """Return all shapes but the ego's; traffic lights show their current state."""
        static = self.town.shapes
        states = static.state.copy()
        for head in self.town.light_heads:
            states[head.shape] = self.signals.state(head.junction, head.approach, self.time)
        moving = actor_shapes(self.traffic.vehicles[1:], self.crowd.pedestrians)
        return merge(replace(static, state=states), moving)

    def scene(self) -> Scene:
        """Return the scene of this moment, without the ego."""
        return Scene(self.shapes(), self.town.ground, self._lighting)

    def teacher_masks(self) -> np.ndarray:
        """Return the teacher's (15, 192, 192) uint8 masks; the moment must be an even step."""
        _ = self.decision  # takes the snapshot of this step
        return self._view.masks(self.ego.pose, self.route.ahead(self.along, ROUTE_POINTS))

    def measurements(self) -> dict[str, Any]:
        """Return the measurement record of this moment, including sensor noise (see docs/data_formats.md)."""
        ego = self.ego
        nodes = self._plan()
        target, far, near = nodes['target'], nodes['far'], nodes['near']
        noise = self._sensor_rng.normal(0.0, 1.0, 6)
        lateral = ego.speed * ego.yaw_rate
        return {
            'x': -ego.y,
            'y': ego.x,
            'theta': float((ego.yaw + np.pi / 2) % (2 * np.pi)),
            'speed': ego.speed,
            'x_target': target.north,
            'y_target': target.east,
            'target_command': target.command,
            'x_command_far': far.north,
            'y_command_far': far.east,
            'command_far': far.command,
            'x_command_near': near.north,
            'y_command_near': near.east,
            'command_near': near.command,
            'should_brake': self.decision.hazard,
            'acceleration': [
                ego.acceleration + 0.001 * float(noise[0]),
                lateral + 0.001 * float(noise[1]),
                9.81 + 0.015 * float(noise[2]),
            ],
            'angular_velocity': [
                0.001 * float(noise[3]),
                0.001 * float(noise[4]),
                ego.yaw_rate + 0.001 * float(noise[5]),
            ],
            'weather': dict(self.weather),
        }
