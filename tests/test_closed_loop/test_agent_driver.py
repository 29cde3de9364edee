"""A trained model as a driver of a recording."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.commands import REPOSITORY, command

from thinktwice.apis import init_dataset, init_model
from thinktwice.closed_loop.agent_driver import AgentDriver
from thinktwice.minitown import CameraRig, Lidar, record
from thinktwice.model_code.control import VehicleControl

MINITOWN = REPOSITORY / 'configs' / 'thinktwice_minitown.py'


class Passenger:
    """An agent that keeps what it senses and brakes gently."""

    def reset(self, route) -> None:
        self.route, self.sensed = route, []

    def step(self, data) -> VehicleControl:
        self.sensed.append(data)
        return VehicleControl(0.0, 0.0, 0.1)


def test_the_agent_senses_what_is_recorded(tmp_path: Path) -> None:
    agent = Passenger()
    names = [camera.name for camera in CameraRig((32, 64)).cameras]
    lidar = Lidar(channels=8, columns=60)
    driver = AgentDriver(agent, names)
    record(tmp_path / 'a', 1, 4, size=(32, 64), lidar=lidar, make_driver=lambda: driver)
    [route] = (tmp_path / 'a').glob('town*/routes_*')
    assert len(agent.sensed) == 15
    for frame in range(3):
        data = agent.sensed[5 * frame]
        measured = json.loads((route / f'measurements/{frame:04d}.json').read_text())
        assert data.position == (measured['x'], measured['y'])
        assert (data.compass, data.speed) == (measured['theta'], measured['speed'])
        np.testing.assert_array_equal(data.points, np.load(route / f'lidar/{frame:04d}.npy'))
        for name in names:
            picture = cv2.imread(str(route / f'rgb_{name}/{frame:04d}.png'))[..., ::-1]
            np.testing.assert_array_equal(data.images[name], picture)
    start = agent.route[0]
    assert np.hypot(start.north - agent.sensed[0].position[0], start.east - agent.sensed[0].position[1]) < 1.0


def test_the_route_of_an_untrained_policy_can_be_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights, root = tmp_path / 'weights.pth', tmp_path / 'data'
    torch.save({'state_dict': init_model(MINITOWN, device='cpu').state_dict()}, weights)
    arguments = [root, '--routes', 1, '--frames', 16, '--size', '48x64', '--lidar', '8x60', '--seed', 1]
    arguments += ['--policy', MINITOWN, weights, '--expert-share', 0.5]
    threads = torch.get_num_threads()
    try:
        assert command('tools/record_minitown.py')([str(argument) for argument in arguments]) == 0
    finally:
        torch.set_num_threads(threads)
    [entry] = json.loads((root / 'dataset_metadata.json').read_text())['towns']['town01_00'].values()
    assert 0 < len(entry['disturbed_frames']) < 15
    options = {'data_root': str(root), 'train_dataloader.dataset.split': None}
    dataset = init_dataset(MINITOWN, 'train', options)
    assert 0 < len(dataset) < 11
    assert all(torch.isfinite(dataset[index]['targets']['waypoints']).all() for index in range(len(dataset)))


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--expert-share', '0.5'], '--policy'),
        (['--policy', 'a', 'b', '--noise', '0.02,0.3'], 'exclude'),
        (['--noise', '0.02'], 'two or three numbers'),
        (['--noise', '0.02,3'], 'got 0.02, 3.0'),
        (['--policy', str(MINITOWN), 'nowhere.pth'], 'nowhere.pth'),
    ],
)
def test_flags_that_make_no_driver_are_refused(tmp_path: Path, capsys, flags, message: str) -> None:
    run = command('tools/record_minitown.py')
    with pytest.raises(SystemExit) if 'nowhere.pth' not in flags else pytest.raises(BaseException):
        code = run([str(tmp_path / 'new'), *flags])
        raise SystemExit(code)
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()
