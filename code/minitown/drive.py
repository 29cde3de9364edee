"""One drive: a town in motion with the ego in it, stepped at 20 Hz.

`Drive.step` takes a control, or lets the expert drive; `Drive.scene` and
`Drive.measurements` give what a car there sees. The recorder uses it, and an agent
in closed loop can.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from thinktwice.geometry.route_planner import RouteNode, RoutePlanner, downsample_route
from thinktwice.minitown.expert.policy import Decision, decide
from thinktwice.minitown.expert.teacher_view import ROUTE_POINTS, Snapshot, TeacherView
from thinktwice.minitown.sensors.renderer import Scene
from thinktwice.minitown.traffic.actor_shapes import PERSON_HALF, actor_shapes
from thinktwice.minitown.traffic.ego_dynamics import STEP_SECONDS, Control, EgoState, advance
from thinktwice.minitown.traffic.pedestrians import Crowd
from thinktwice.minitown.traffic.route import Route, draw_route
from thinktwice.minitown.traffic.signals import Signals
from thinktwice.minitown.traffic.spawning import EGO, spawn_vehicles
from thinktwice.minitown.world.primitives import PrimitiveSet, merge
from thinktwice.minitown.world.town import build_town, parse_town_name
from thinktwice.minitown.world.weather import draw_weather, make_lighting

STEPS_PER_CONTROL = 2
STEER_NOISE = 0.01
TOP_SPEED = 8.5
WARM_UP_SECONDS = (2.0, 8.0)


class Drive:
    """A seeded drive through a town.

    Args:
        town: name, for example ``town01_00``: number of the map, then an index that sets the weather.
        seed: with `town` and `number` it decides everything that moves.
        number: which drive of that town and seed.
        seconds: how long the route must last.
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
        start_lane, start = self._draw_start(place_rng)
        length = TOP_SPEED * (seconds + WARM_UP_SECONDS[1]) + 120.0
        self.route = Route.over(layout.lanes, draw_route(layout.lanes, start_lane, length, place_rng))
        self.along = start
        x, y, yaw = layout.lanes[start_lane].pose(start)
        self.ego = EgoState(x, y, yaw, float(place_rng.choice([0.0, 3.0, 5.0])))
        self.traffic = spawn_vehicles(
            layout, self.signals, self.crowd, self.route, start, self.ego, traffic_rng
        )
        self._view = TeacherView(self.town.ground)
        self._stop_lines = self._light_stop_lines()
        self.steps = 0
        self._decided_at = -1
        self._decision: Decision | None = None
        self._control = Control()
        # from the start on: a node behind would never be reached and stay the target for good
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
        """Seconds since the drive was made."""
        return self.steps * STEP_SECONDS

    def _draw_start(self, rng: np.random.Generator) -> tuple[int, float]:
        streets = [lane for lane in self.town.layout.lanes if not lane.is_connector]
        lane = streets[int(rng.integers(len(streets)))]
        start = float(rng.uniform(4.0, lane.length - 18.0))
        # Nobody starts on a crosswalk, where people could be walking already.
        if lane.crosswalk is not None and abs(start - lane.crosswalk) < 9.0:
            start = lane.crosswalk + 9.0 if lane.length - lane.crosswalk > 25.0 else lane.crosswalk - 9.0
        return lane.index, start

    def _light_stop_lines(self) -> list[tuple[int, int, np.ndarray]]:
        """Junction, approach and (2, 2) world ends of each stop line under a light."""
        lines = []
        for lane in self.town.layout.lanes:
            if lane.is_connector or not self.town.layout.junctions[lane.end].has_lights:
                continue
            x, y, yaw = lane.pose(lane.length)
            beside = 1.7 * np.array([-np.sin(yaw), np.cos(yaw)])
            lines.append((lane.end, lane.heading_index, np.array([(x, y) - beside, (x, y) + beside])))
        return lines

    def step(self, control: Control | None = None) -> None:
        """Advance the world by 0.05 s.

        Args:
            control: of the ego; None lets the expert drive, who decides on even steps.
        """
        if self.steps % STEPS_PER_CONTROL == 0:
            self._plan()
            wanted = self.decision.control
            self._control = replace(
                wanted, steer=wanted.steer + float(self._steer_rng.normal(0.0, STEER_NOISE))
            )
        self.crowd.step(STEP_SECONDS, self.traffic.vehicles)
        for vehicle in self.traffic.vehicles[1:]:
            self.traffic.move(vehicle, self.traffic.acceleration(vehicle), STEP_SECONDS)
        self.ego = advance(self.ego, self._control if control is None else control)
        self.steps += 1
        self.traffic.time = self.time
        self._sync_ego()
        self.traffic.refresh()

    def _plan(self) -> dict[str, RouteNode]:
        """Move the planners on; they would miss nodes if asked only now and then."""
        return {name: planner.step(-self.ego.y, self.ego.x) for name, planner in self._planners.items()}

    def _sync_ego(self) -> None:
        """Tell the traffic where the ego is on its lanes."""
        self.along = self.route.project(self.ego.x, self.ego.y, self.along)
        place, distance = self.route.lane_at(self.along)
        vehicle = self.traffic.vehicles[EGO]
        vehicle.route = self.route.lane_indices[place : place + 6]
        vehicle.distance, vehicle.speed, vehicle.pose = distance, self.ego.speed, self.ego.pose
        vehicle.acceleration = self.ego.acceleration

    @property
    def decision(self) -> Decision:
        """What the expert decides now; on odd steps, what it decided a step ago."""
        due = self.steps - self.steps % STEPS_PER_CONTROL
        if self._decision is None or self._decided_at < due:
            snapshot = self.snapshot()
            self._view.remember(snapshot)
            wanted = self.traffic.acceleration(self.traffic.vehicles[EGO])
            self._decision = decide(
                self.ego, self.route, self.along, wanted, snapshot.vehicles, snapshot.walkers
            )
            self._decided_at = self.steps
        return self._decision

    def snapshot(self) -> Snapshot:
        """Return boxes of the other actors and the states of the lights."""
        cars = [(*car.pose, car.half[0], car.half[1]) for car in self.traffic.vehicles[1:]]
        people = [(*person.pose, PERSON_HALF[0], PERSON_HALF[1]) for person in self.crowd.people]
        states = [self.signals.state(junction, way, self.time) for junction, way, _ in self._stop_lines]
        return Snapshot(
            vehicles=np.array(cars).reshape(-1, 5),
            walkers=np.array(people).reshape(-1, 5),
            stop_lines=np.array([line for _, _, line in self._stop_lines]).reshape(-1, 2, 2),
            light_states=np.array(states, dtype=np.int64),
        )

    def shapes(self) -> PrimitiveSet:
        """Return every shape but the ego's, lights in their present colors."""
        standing = self.town.shapes
        states = standing.state.copy()
        for head in self.town.light_heads:
            states[head.shape] = self.signals.state(head.junction, head.approach, self.time)
        moving = actor_shapes(self.traffic.vehicles[1:], self.crowd.people)
        return merge(replace(standing, state=states), moving)

    def scene(self) -> Scene:
        """Return what can be seen now."""
        return Scene(self.shapes(), self.town.ground, self._lighting)

    def teacher_masks(self) -> np.ndarray:
        """Return the teacher's (15, 192, 192) uint8 masks of this moment (call it on even steps)."""
        _ = self.decision  # the tick of this moment is remembered with the decision
        return self._view.masks(self.ego.pose, self.route.ahead(self.along, ROUTE_POINTS))

    def measurements(self) -> dict[str, Any]:
        """Return the measurement record of this moment, noise included (see the data format)."""
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
