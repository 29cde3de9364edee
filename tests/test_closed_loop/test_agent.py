import dataclasses
import math

import numpy as np
import pytest
import torch

from thinktwice.closed_loop.agent import DrivingAgent, SensorData
from thinktwice.closed_loop.gnss import SmoothedPosition
from thinktwice.datasets import CarlaDataset
from thinktwice.geometry.route_planner import RouteNode
from thinktwice.minitown import Lidar, record
from thinktwice.model_code.control import VehicleControl

PIPELINE = [
    {'type': 'LoadMeasurements'},
    {'type': 'LoadPoints'},
    {'type': 'LoadCameras', 'image_size': (32, 64), 'training': False},
    {'type': 'PackSample'},
]
GO = {'action': torch.tensor([0.5, 0.1]), 'waypoints': torch.zeros(4, 2)}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CarlaDataset:
    root = tmp_path_factory.mktemp('town')
    record(root, routes=1, frames=9, size=(48, 96), towns=['town01_00'], lidar=Lidar(channels=8, columns=90))
    split = {'towns': ['town01'], 'indices': ['00'], 'caps': None}
    return CarlaDataset(root, PIPELINE, split, num_frames=2, horizon=4, test_mode=True)


def sensed(dataset: CarlaDataset, frame: int) -> SensorData:
    """What the recording vehicle sensed at a frame."""
    reader = route_reader(dataset)
    values = reader.measurements(frame)
    size = dataset.calibration.stored_size
    return SensorData(
        images={camera.name: reader.rgb(camera.rgb, frame, size) for camera in dataset.calibration.cameras},
        points=reader.points(frame),
        position=(values['x'], values['y']),
        compass=values['theta'],
        speed=values['speed'],
    )


def route_reader(dataset: CarlaDataset):
    town, route, _ = dataset.sample_id(0).split('/')
    return dataset.storage.route(town, route)


def make_agent(
    dataset: CarlaDataset, predict=lambda samples: [GO for _ in samples], **options
) -> DrivingAgent:
    steps = dataset.steps
    return DrivingAgent(predict, steps, dataset.calibration, **{'tick_seconds': 0.5, **options})


def test_samples_equal_the_dataset_s(dataset: CarlaDataset) -> None:
    agent = make_agent(dataset)
    for index in range(len(dataset)):
        expected = dataset[index]
        frame = expected['metas']['frame']
        values = route_reader(dataset).measurements(frame)
        nodes = [
            RouteNode(values['x'], values['y'], 4),
            RouteNode(values['x_target'], values['y_target'], int(values['target_command'])),
        ]
        agent.reset(nodes)
        assert agent.observe(sensed(dataset, frame - 1)) is None
        sample = agent.observe(sensed(dataset, frame))
        assert sample['inputs'].keys() == expected['inputs'].keys()
        for name, value in expected['inputs'].items():
            assert torch.equal(sample['inputs'][name], value), name


def test_history_has_the_spacing_of_training_at_any_rate_of_ticks(dataset: CarlaDataset) -> None:
    asked: list = []
    agent = make_agent(dataset, lambda samples: asked.extend(samples) or [GO], tick_seconds=0.1)
    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(100.0, 0.0, 4)])
    data = sensed(dataset, 3)
    controls = [
        agent.step(dataclasses.replace(data, position=(0.1 * tick, 0.0), compass=0.0)) for tick in range(8)
    ]
    assert controls[:5] == [VehicleControl(0.0, 0.0, 0.0)] * 5
    assert dataclasses.astuple(controls[5]) == pytest.approx((0.5, 0.1, 0.0))
    assert len(asked) == 3
    for sample in asked:  # 0.5 m further in 0.5 s: the ego frame of before lies behind
        assert sample['inputs']['frame2key'][0, :2, 3].tolist() == pytest.approx([-0.5, 0.0], abs=1e-6)


def test_what_sensors_do_not_give_is_replaced_by_their_last_values(dataset: CarlaDataset) -> None:
    agent = make_agent(dataset)
    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(100.0, 0.0, 4)])
    data = sensed(dataset, 3)
    assert agent.step(dataclasses.replace(data, compass=math.nan)) == VehicleControl(0.0, 0.0, 0.0)
    agent.step(data)
    name = dataset.calibration.cameras[0].name
    images = {key: image for key, image in data.images.items() if key != name}
    sample = agent.observe(dataclasses.replace(data, compass=math.nan, images=images))
    assert torch.equal(sample['inputs']['img'][0], sample['inputs']['img'][1])
    torch.testing.assert_close(sample['inputs']['frame2key'][0], torch.eye(4))

    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(100.0, 0.0, 4)])
    agent.step(dataclasses.replace(data, images=images))
    sample = agent.observe(dataclasses.replace(data, images=images))
    assert not sample['inputs']['img'][:, 0].any()
    assert sample['inputs']['img'][:, 1].any()


def test_an_empty_sweep_gives_a_sample_without_points(dataset: CarlaDataset) -> None:
    agent = make_agent(dataset)
    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(100.0, 0.0, 4)])
    data = dataclasses.replace(sensed(dataset, 3), points=np.zeros((0, 4), dtype=np.float32))
    agent.observe(data)
    assert agent.observe(data)['inputs']['points'].shape == (0, 5)


def test_half_sweeps_are_joined_in_the_present_frame(dataset: CarlaDataset) -> None:
    agent = make_agent(dataset, half_sweeps=True)
    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(100.0, 0.0, 4)])
    data = sensed(dataset, 3)
    pillar = np.array([[10.0, 2.0, 1.0, 0.7]], dtype=np.float32)
    # north, then turned by a quarter to the east after 4 m: what stood 10 m ahead stands 6 m to the left
    agent.observe(dataclasses.replace(data, points=pillar, position=(0.0, 0.0), compass=0.0))
    second = np.array([[-2.0, -6.0, 1.0, 0.5]], dtype=np.float32)
    sample = agent.observe(dataclasses.replace(data, points=second, position=(4.0, 0.0), compass=math.pi / 2))
    key = sample['inputs']['points'][sample['inputs']['points'][:, 4] == 0]
    torch.testing.assert_close(
        key[:, :4], torch.tensor([[2.0, -6.0, 1.0, 0.7], [-2.0, -6.0, 1.0, 0.5]]), atol=1e-5, rtol=0
    )


def test_position_ring_moves_with_the_vehicle() -> None:
    """V15 of the data specification: (X, Y) = (100, 50), yaw 30 degrees, 6 m/s, steer 0.1."""
    ring = SmoothedPosition(0.05)
    ring.update(np.array([-50.0, 100.0]))  # north = -Y, east = X
    ring.advance(6.0, math.radians(30), 0.1)
    north, east = 2 * ring.update(np.zeros(2))
    assert (east, -north) == pytest.approx((100.253703, 50.160109), abs=1e-6)


def test_smoothing_averages_noise_away(dataset: CarlaDataset) -> None:
    rng = np.random.default_rng(0)
    agent = make_agent(dataset, tick_seconds=0.05, smooth_position=True)
    agent.reset([RouteNode(0.0, 0.0, 4), RouteNode(1000.0, 0.0, 4)])
    data, errors = sensed(dataset, 3), []
    for tick in range(160):
        true = 6.0 * 0.05 * tick
        noisy = tuple(np.array([true, 0.0]) + rng.normal(0.0, 0.557, 2))
        agent.observe(dataclasses.replace(data, position=noisy, compass=0.0, speed=6.0))
        agent.act(None)
        errors.append(np.linalg.norm(agent._history[-1].position - (true, 0.0)))
    assert np.mean(errors[100:]) < 0.15


def test_misuse_is_refused(dataset: CarlaDataset) -> None:
    with pytest.raises(ValueError, match='tick_seconds=0.3'):
        make_agent(dataset, tick_seconds=0.3)
    with pytest.raises(RuntimeError, match='reset'):
        make_agent(dataset).observe(sensed(dataset, 3))
    with pytest.raises(ValueError, match='at least one node'):
        make_agent(dataset).reset([])
