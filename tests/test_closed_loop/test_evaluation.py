from collections.abc import Sequence

import numpy as np
import pytest
import torch

from thinktwice.closed_loop import MinitownEnv
from thinktwice.closed_loop.agent import SensorData
from thinktwice.closed_loop.evaluation import drive_group, drive_routes, plan_routes
from thinktwice.closed_loop.policies import (
    BATCH_SIZE,
    AgentPolicy,
    ConstantPolicy,
    ExpertPolicy,
    LanePolicy,
    Moment,
    Policy,
)
from thinktwice.closed_loop.scoring import summarize
from thinktwice.model_code.control import VehicleControl

SHORT = dict(route_length=30.0)


class TenLinePolicy(Policy):
    """A policy from outside the package: full throttle until something was hit."""

    def act(self, moments: Sequence[Moment]) -> list[np.ndarray]:
        return [np.array([float(not moment.env.infractions), 0.0, 0.0]) for moment in moments]


def test_routes_are_spread_over_the_towns() -> None:
    requests = plan_routes(5, seed=9, towns=['town02_00', 'town05_00'])
    assert [(request.town, request.number) for request in requests] == [
        ('town02_00', 0), ('town05_00', 0), ('town02_00', 1), ('town05_00', 1), ('town02_00', 2),
    ]  # fmt: skip
    assert len({request.name for request in requests}) == 5
    with pytest.raises(ValueError, match='at least one'):
        plan_routes(0, 0)


def test_a_route_does_not_depend_on_those_beside_it() -> None:
    requests = plan_routes(3, seed=2)
    together = drive_group(LanePolicy(), requests, **SHORT)
    assert together == [drive_group(LanePolicy(), [request], **SHORT)[0] for request in requests]


def test_results_do_not_depend_on_the_number_of_processes() -> None:
    requests = plan_routes(BATCH_SIZE + 2, seed=4)
    threads = torch.get_num_threads()
    try:
        one = dict(drive_routes(ConstantPolicy, requests, **SHORT))
        two = dict(drive_routes(ConstantPolicy, requests, processes=2, **SHORT))
    finally:
        torch.set_num_threads(threads)
    assert sorted(one) == list(range(len(requests)))
    assert one == two


def test_baselines_are_ordered_as_what_they_know() -> None:
    requests = plan_routes(4, seed=11)
    expert, lane, constant, own = (
        summarize(drive_group(policy, requests)).driving_score
        for policy in (ExpertPolicy(), LanePolicy(), ConstantPolicy(), TenLinePolicy())
    )
    assert expert >= 95.0
    assert expert > lane > constant
    assert 0.0 <= own < lane


class FollowsItsSpeed:
    """Stands in for an agent whose plan is its speed."""

    def reset(self, route) -> None:
        pass

    def observe(self, data: SensorData) -> float | None:
        return data.speed or None

    def act(self, prediction: float | None) -> VehicleControl:
        return VehicleControl(prediction or 0.0, 0.0, 0.0)


@pytest.mark.parametrize('vehicles', [1, BATCH_SIZE, BATCH_SIZE + 2])
def test_every_batch_of_a_model_has_the_same_size(vehicles: int) -> None:
    sizes = []

    def predict(samples: list[float]) -> list[float]:
        sizes.append(len(samples))
        return samples

    policy = AgentPolicy(FollowsItsSpeed, predict, sensors=None)
    env = MinitownEnv()
    speeds = [0.0, *(0.1 * slot for slot in range(1, vehicles))]  # the first has no sample yet
    moments = [
        Moment(slot, env, {'position': np.zeros(2), 'compass': np.zeros(1), 'speed': np.array([speed])})
        for slot, speed in enumerate(speeds)
    ]
    for moment in moments:
        policy.reset(moment, {'route': []})
    assert [action[0] for action in policy.act(moments)] == speeds
    assert sizes == [BATCH_SIZE] * -(-(vehicles - 1) // BATCH_SIZE)


def test_a_failing_policy_keeps_its_traceback() -> None:
    with pytest.raises(NotImplementedError):
        drive_group(Policy(), plan_routes(1, 0))
