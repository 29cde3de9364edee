"""The agent for CARLA's leaderboard, with a stand-in for the leaderboard and the client's own types."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.commands import REPOSITORY

from thinktwice.errors import ConfigError, LaunchError

MINITOWN = REPOSITORY / 'configs' / 'thinktwice_minitown.py'
PLAN = [({'lat': 0.00001 * meter, 'lon': 0.0, 'z': 0.0}, 4) for meter in range(60)]


class Leaderboard1Agent:
    """What the base class of leaderboard 1.0 does with an agent."""

    def __init__(self, path_to_conf_file: str) -> None:
        self._global_plan: Any = None
        self.setup(path_to_conf_file)

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        self._global_plan = global_plan_gps[::50]


class Leaderboard2Agent(Leaderboard1Agent):
    """The same of leaderboard 2.0."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self._global_plan = None


@pytest.fixture
def load_agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports the tool as the leaderboard does, beside a leaderboard with the base class that is given."""
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')

    def load(base: type | None) -> ModuleType:
        name = 'leaderboard.autoagents.autonomous_agent'
        for part in ('leaderboard', 'leaderboard.autoagents', name):
            # None: the import fails
            monkeypatch.setitem(sys.modules, part, None if base is None else ModuleType(part))
        if base is not None:
            monkeypatch.setattr(sys.modules[name], 'AutonomousAgent', base, raising=False)
        sys.modules.pop('carla_agent', None)
        return importlib.import_module('carla_agent')

    yield load
    sys.modules.pop('carla_agent', None)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / 'agent.json'
    path.write_text(json.dumps({'config': str(MINITOWN), 'device': 'cpu'}))
    return path


def buffers(sensors: list[dict[str, Any]], tick: int) -> dict[str, tuple[int, Any]]:
    """What the server delivers while the vehicle drives north at 2 m/s; no compass at the first tick."""
    compass = np.nan if tick == 0 else 0.0
    data = {
        'sensor.lidar.ray_cast': np.random.default_rng(tick).normal(0, 5, (500, 4)).astype(np.float32),
        'sensor.other.imu': np.array([0.0, 0.0, 9.8, 0.0, 0.0, 0.0, compass]),
        'sensor.other.gnss': np.array([0.1 * tick / 111324.60662786, 0.0, 0.0]),
        'sensor.speedometer': {'speed': 2.0},
    }
    for sensor in sensors:
        if sensor['type'] == 'sensor.camera.rgb':
            data['sensor.camera.rgb'] = np.full((sensor['height'], sensor['width'], 4), 90, dtype=np.uint8)
    return {sensor['id']: (tick, data[sensor['type']]) for sensor in sensors}


def test_the_agent_drives_with_a_model(load_agent: Any, settings: Path, capsys: Any) -> None:
    carla = pytest.importorskip('carla', reason='needs the CARLA client: pip install thinktwice[carla]')
    module = load_agent(Leaderboard2Agent)
    agent = getattr(module, module.get_entry_point())('localhost', 2000, False)
    agent.set_global_plan(PLAN, [])
    agent.setup(str(settings))
    sensors = agent.sensors()
    controls = [agent.run_step(buffers(sensors, tick), 0.05 * tick) for tick in range(13)]
    assert all(isinstance(control, carla.VehicleControl) for control in controls)
    values = [(control.throttle, control.steer, control.brake) for control in controls]
    # the history of half a second begins with the first heading
    assert values[:11] == [(0.0, 0.0, 0.0)] * 11
    assert all(throttle or brake for throttle, _, brake in values[11:])
    assert all(-1 <= steer <= 1 for _, steer, _ in values)
    agent.destroy()
    assert '13 ticks: ' in capsys.readouterr().out


@pytest.mark.parametrize('base', [Leaderboard1Agent, Leaderboard2Agent])
def test_both_leaderboards_are_served(load_agent: Any, settings: Path, base: type, monkeypatch: Any) -> None:
    pytest.importorskip('carla', reason='needs the CARLA client: pip install thinktwice[carla]')
    module = load_agent(base)
    model = module.init_model(MINITOWN, device='cpu')
    monkeypatch.setattr(module, 'init_model', lambda *unused: model)
    if base is Leaderboard1Agent:
        agent = module.ThinkTwiceAgent(str(settings))
        agent.set_global_plan(PLAN, [])
    else:
        agent = module.ThinkTwiceAgent('localhost', 2000)
        agent.set_global_plan(PLAN, [])
        agent.setup(str(settings))
    sensors = agent.sensors()
    agent.agent.predict = lambda samples: [
        {
            'action': np.array([0.7, -0.2]),
            'waypoints': np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]),
        }
    ]
    for tick in range(13):
        control = agent.run_step(buffers(sensors, tick), 0.05 * tick)
    assert control.steer == pytest.approx(-0.2)
    # the first node beyond 50 m of the whole plan, not what the base class keeps of it
    assert agent.agent.target_point == pytest.approx([45 * 1.1132460662786 - 1.2, 0.0], abs=0.01)
    agent.set_global_plan(PLAN[:10], [])
    control = agent.run_step(buffers(sensors, 1), 0.0)
    assert (control.throttle, control.steer, control.brake) == (0.0, 0.0, 0.0)


def test_settings_name_files_beside_them(load_agent: Any, tmp_path: Path) -> None:
    read = load_agent(None).read_settings
    path = tmp_path / 'agent.json'
    path.write_text('{"config": "a.py", "checkpoint": "/b/c.pth", "distorted": false}')
    assert read(path) == {
        'config': tmp_path / 'a.py',
        'checkpoint': Path('/b/c.pth'),
        'controller': 'fused',
        'device': None,
        'distorted': False,
        'cfg_options': {},
    }
    for text, message in (
        ('{"config": "a.py", "chekpoint": "b"}', 'unknown key "chekpoint"'),
        ('{}', 'no "config"'),
        ('config = 1', 'not JSON'),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value)


def test_cameras_of_leaderboard_2_have_no_distortion(
    load_agent: Any, settings: Path, monkeypatch: Any
) -> None:
    module = load_agent(Leaderboard2Agent)
    if not hasattr(module, 'carla'):
        pytest.skip('needs the CARLA client: pip install thinktwice[carla]')
    model = module.init_model(MINITOWN, device='cpu')
    monkeypatch.setattr(module, 'init_model', lambda *unused: model)
    agent = module.ThinkTwiceAgent('localhost', 2000)
    for distorted in (True, False):
        settings.write_text(json.dumps({'config': str(MINITOWN), 'distorted': distorted}))
        agent.setup(str(settings))
        cameras = agent.agent.calibration.cameras
        assert [camera.is_pinhole for camera in cameras] == [not distorted] * 4


def test_without_the_leaderboard_the_agent_says_what_is_missing(load_agent: Any) -> None:
    module = load_agent(None)
    with pytest.raises(LaunchError, match=r'(carla|leaderboard).*docs/carla\.md') as raised:
        module.ThinkTwiceAgent('localhost', 2000)
    assert '\n' not in str(raised.value)
