"""Driving policies: the agent, the expert, and baselines without a camera."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinktwice.closed_loop.agent import DrivingAgent, SensorData
from thinktwice.closed_loop.controllers import Prediction
from thinktwice.closed_loop.environment import MinitownEnv
from thinktwice.minitown import Sensors

BATCH_SIZE = 5
"""Samples in each forward pass of a model."""
NO_POINTS = np.zeros((0, 4), dtype=np.float32)


@dataclass(frozen=True)
class Moment:
    """The state of one vehicle when its next action is due.

    Attributes:
        slot: number of its route within the batch.
        env: its environment. Only the expert and the lane baseline read more of it than the observation.
        observation: of the environment.
    """

    slot: int
    env: MinitownEnv
    observation: dict[str, Any]


class Policy:
    """Drives several routes at once.

    Attributes:
        sensors: cameras and LiDAR that the vehicles carry; None for none.
    """

    sensors: Sensors | None = None

    def reset(self, moment: Moment, info: dict[str, Any]) -> None:
        """Begin a route; ``info`` is that of the environment's ``reset``."""

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        """Actions (3,) for the vehicles whose routes have not ended."""
        raise NotImplementedError


class ExpertPolicy(Policy):
    """The rule-based expert, which uses the true state of the town."""

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        """See :class:`Policy`."""
        return [as_action(moment.env.drive.decision.control) for moment in moments]


class ConstantPolicy(Policy):
    """Straight on with constant throttle.

    Args:
        throttle: 0 to 1.
    """

    def __init__(self, throttle: float = 0.5) -> None:
        self.throttle = throttle

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        """See :class:`Policy`."""
        return [np.array([self.throttle, 0.0, 0.0]) for _ in moments]


class LanePolicy(Policy):
    """Constant speed along the route's lane, steered by the expert's pure pursuit, regardless of traffic.

    Args:
        speed: m/s.
    """

    def __init__(self, speed: float = 5.0) -> None:
        self.speed = speed

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        """See :class:`Policy`."""
        actions = []
        for moment in moments:
            error = self.speed - float(moment.observation['speed'][0])
            steer = moment.env.drive.decision.steer
            actions.append(np.array([np.clip(0.5 * error, 0, 1), steer, np.clip(-0.3 * error, 0, 1)]))
        return actions


class AgentPolicy(Policy):
    """A trained model, one forward pass for all vehicles.

    The last bits of a forward pass depend on the size of its batch, but not on what else is in it. So every
    batch is filled up to BATCH_SIZE by repeating its last sample, and a vehicle drives the same whatever
    drives beside it.

    Args:
        make_agent: makes the agent of a vehicle.
        predict: gives one prediction per sample.
        sensors: of the vehicles; None for a model that sees none.

    Attributes:
        predictions: the last prediction by slot, for pictures.
    """

    def __init__(
        self,
        make_agent: Callable[[], DrivingAgent],
        predict: Callable[[list[Any]], list[Prediction]],
        sensors: Sensors | None,
    ) -> None:
        self.sensors = sensors
        self._make_agent, self._predict = make_agent, predict
        self._agents: dict[int, DrivingAgent] = {}
        self.predictions: dict[int, Prediction] = {}

    def reset(self, moment: Moment, info: dict[str, Any]) -> None:
        """See :class:`Policy`."""
        agent = self._agents.setdefault(moment.slot, self._make_agent())
        agent.reset(info['route'])
        self.predictions.pop(moment.slot, None)

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        """See :class:`Policy`."""
        agents = [self._agents[moment.slot] for moment in moments]
        observed = {
            moment.slot: agent.observe(as_sensor_data(moment.observation))
            for agent, moment in zip(agents, moments, strict=True)
        }
        samples = {slot: sample for slot, sample in observed.items() if sample is not None}
        found: dict[int, Prediction] = {}
        for first in range(0, len(samples), BATCH_SIZE):
            slots = list(samples)[first : first + BATCH_SIZE]
            batch = [samples[slot] for slot in slots]
            batch += batch[-1:] * (BATCH_SIZE - len(batch))
            found |= zip(slots, self._predict(batch), strict=False)
        self.predictions |= found
        return [
            as_action(agent.act(found.get(moment.slot)))
            for agent, moment in zip(agents, moments, strict=True)
        ]


def as_sensor_data(observation: dict[str, Any]) -> SensorData:
    """An environment's observation as the agent takes it."""
    north, east = observation['position'].tolist()
    points = observation.get('lidar', NO_POINTS)[: int(observation.get('lidar_points', 0))]
    return SensorData(
        images=observation.get('images', {}),
        points=points,
        position=(north, east),
        compass=float(observation['compass'][0]),
        speed=float(observation['speed'][0]),
    )


def as_action(control: Any) -> np.ndarray:
    """A control as an action (3,) of the environment."""
    return np.array([control.throttle, control.steer, control.brake])
