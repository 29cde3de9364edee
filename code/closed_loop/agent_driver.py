"""Lets a driving agent take the wheel while a dataset is recorded in the embedded town."""

from collections.abc import Callable, Sequence

import numpy as np

from thinktwice.closed_loop.agent import DrivingAgent, SensorData
from thinktwice.minitown import Control, Drive, Observation


class AgentDriver:
    """A trained model as a driver of ``thinktwice.minitown.record``.

    Args:
        agent: with a tick of 0.1 s and the calibration of the recording.
        cameras: names of the recording's cameras, in their order.
    """

    def __init__(self, agent: DrivingAgent, cameras: Sequence[str]) -> None:
        self.agent = agent
        self.cameras = tuple(cameras)

    def reset(self, drive: Drive, rng: np.random.Generator) -> None:
        """Begin a route; an agent decides without chance."""
        self.agent.reset(drive.route.nodes(drive.along))

    def control(self, drive: Drive, observe: Callable[[], Observation]) -> Control:
        """The agent's control for what the sensors observe."""
        ego, observation = drive.ego, observe()
        images = {name: view.rgb for name, view in zip(self.cameras, observation.views, strict=True)}
        compass = (ego.yaw + np.pi / 2) % (2 * np.pi)
        control = self.agent.step(SensorData(images, observation.points, (-ego.y, ego.x), compass, ego.speed))
        return Control(control.throttle, control.steer, control.brake)
