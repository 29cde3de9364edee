"""The agent of a trained model for the CARLA leaderboard, which imports this file; see docs/carla.md.

    python leaderboard/leaderboard_evaluator.py --agent=tools/carla_agent.py --agent-config=agent.json ...

where agent.json is at least

    {"config": "configs/thinktwice.py", "checkpoint": "work_dirs/thinktwice/epoch_60.pth"}
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinktwice.apis import init_agent, init_model
from thinktwice.closed_loop.carla_input import TICK_SECONDS, CarlaInput, sensor_rig, without_distortion
from thinktwice.datasets.calibration import package_calibration
from thinktwice.errors import ConfigError, LaunchError

try:
    import carla
    from leaderboard.autoagents.autonomous_agent import AutonomousAgent
except ImportError as error:
    reason = str(error)

    class AutonomousAgent:
        """Stands for the leaderboard's base class where the leaderboard is not installed."""

        def __init__(self, *unused: Any) -> None:
            raise LaunchError(
                f'{reason}: the agent runs in the CARLA leaderboard, see docs/carla.md for what has to be '
                'installed and in PYTHONPATH'
            )


DEFAULTS = {'checkpoint': None, 'controller': 'fused', 'device': None, 'distorted': True, 'cfg_options': {}}


def get_entry_point() -> str:
    """The name of the agent's class, for the leaderboard."""
    return 'ThinkTwiceAgent'


def read_settings(path: Path) -> dict[str, Any]:
    """Read and check the file of ``--agent-config``.

    Raises:
        ConfigError: The file is not JSON, has an unknown key, or names no config.
        FileNotFoundError: There is no such file.
    """
    try:
        given = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ConfigError(f'{path} is not JSON: {error}') from error
    if not isinstance(given, dict) or 'config' not in given:
        raise ConfigError(f'{path} has no "config", the config file of the model')
    if unknown := given.keys() - DEFAULTS.keys() - {'config'}:
        raise ConfigError(
            f'{path} has the unknown key "{min(unknown)}"; known: config, {", ".join(DEFAULTS)}'
        )
    settings = {**DEFAULTS, **given}
    for key in ('config', 'checkpoint'):
        if settings[key] is not None:
            settings[key] = path.parent / settings[key]
    return settings


class ThinkTwiceAgent(AutonomousAgent):
    """Passes the leaderboard's buffers to a ``DrivingAgent`` and its controls back.

    Leaderboard 1.0 calls ``setup`` before ``set_global_plan``, 2.0 after it; the drive begins with the
    first tick after both.
    """

    plan: Sequence[tuple[Mapping[str, float], Any]] = ()

    def setup(self, path_to_conf_file: str) -> None:
        """Build the model; see the module for the file."""
        settings = read_settings(Path(path_to_conf_file))
        calibration = package_calibration()
        if not settings['distorted']:
            calibration = without_distortion(calibration)
        model = init_model(
            settings['config'], settings['checkpoint'], settings['device'], settings['cfg_options']
        )
        self.agent = init_agent(
            model, calibration, TICK_SECONDS, settings['controller'], half_sweeps=True, smooth_position=True
        )
        self.input: CarlaInput | None = None
        self.seconds: list[float] = []

    def sensors(self) -> list[dict[str, Any]]:
        """The sensors of the recordings, with the cameras that the model uses."""
        return sensor_rig(self.agent.calibration)

    def set_global_plan(self, global_plan_gps: Any, global_plan_world_coord: Any) -> None:
        """Take the route; the agent itself reduces it to the nodes that the recordings have."""
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self.plan = global_plan_gps
        self.input = None

    def run_step(self, input_data: Mapping[str, tuple[int, Any]], timestamp: float) -> 'carla.VehicleControl':
        """The control of one tick."""
        start = time.perf_counter()
        if self.input is None:
            self.input = CarlaInput(self.agent.calibration, self.plan)
            self.agent.reset(self.input.route)
        control = self.agent.step(self.input.sensor_data(input_data))
        self.seconds.append(time.perf_counter() - start)
        return carla.VehicleControl(
            throttle=float(control.throttle), steer=float(control.steer), brake=float(control.brake)
        )

    def destroy(self) -> None:
        """Print the latency and free the model."""
        if seconds := getattr(self, 'seconds', None):
            median, high = 1000 * np.percentile(seconds, [50, 95])
            print(f'{len(seconds)} ticks: median {median:.0f} ms, 95th percentile {high:.0f} ms')
        self.agent = None


if __name__ == '__main__':
    print(__doc__)
