"""Drive routes of the embedded town and score them as CARLA's leaderboard does.

Examples:
    python tools/drive_minitown.py --policy expert --routes 20
    python tools/drive_minitown.py configs/thinktwice_minitown.py work_dirs/demo/epoch_4.pth --video videos
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinktwice.command_line import Parser, add_override_flag, natural, positive, run_command
from thinktwice.errors import ConfigError

if TYPE_CHECKING:
    from thinktwice.closed_loop.policies import Policy
    from thinktwice.closed_loop.scoring import RouteResult

POLICIES = ('agent', 'expert', 'constant', 'lane', 'ego_mlp')
MAX_LENGTH = 20_000.0  # meters; the route and its traffic are planned at the start
CONTROLLERS = ('beta', 'pid', 'fused', 'situation')


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('config', nargs='?', help='config of the model that drives (policy agent)')
    parser.add_argument('checkpoint', nargs='?', help='its checkpoint')
    parser.add_argument(
        '--policy',
        choices=POLICIES,
        default='agent',
        help='who drives: a trained model, the expert, constant throttle, constant speed along the lane, or '
        'a network of speed, target point and command, trained now on the data of CONFIG (%(default)s)',
    )
    parser.add_argument(
        '--controller', choices=CONTROLLERS, default='fused', help='from plan to control (%(default)s)'
    )
    parser.add_argument('--routes', type=positive, default=10, help='how many (%(default)s)')
    parser.add_argument('--seed', type=natural, default=0, help='of traffic and routes (%(default)s)')
    parser.add_argument(
        '--towns', default='town02_00,town05_00', help='comma-separated, used in turn (%(default)s)'
    )
    parser.add_argument('--length', type=float, default=200.0, help='of a route, meters (%(default)s)')
    parser.add_argument(
        '--frequency', type=int, choices=(10, 20), default=10, help='decisions per second (%(default)s)'
    )
    parser.add_argument(
        '--out', metavar='FILE', type=Path, help="write the results in the leaderboard's format"
    )
    parser.add_argument('--video', metavar='DIR', type=Path, help='write an MP4 per route')
    parser.add_argument('--videos', type=positive, metavar='N', help='of the first N routes only')
    parser.add_argument(
        '--processes', type=positive, default=os.cpu_count() or 1, help='the results do not depend on it'
    )
    add_override_flag(parser)
    arguments = parser.parse_args(argv)
    if arguments.policy == 'agent' and not arguments.checkpoint:
        parser.error('a model needs CONFIG and CHECKPOINT, or choose another --policy')
    if arguments.policy == 'ego_mlp' and (not arguments.config or arguments.checkpoint):
        parser.error('--policy ego_mlp needs CONFIG and no CHECKPOINT')
    if arguments.policy not in ('agent', 'ego_mlp') and arguments.config:
        parser.error(f'--policy {arguments.policy} takes no CONFIG and CHECKPOINT')
    if not 0 < arguments.length <= MAX_LENGTH:
        parser.error(f'--length must be above 0 and at most {MAX_LENGTH:g} m, got {arguments.length}')
    if arguments.videos and not arguments.video:
        parser.error('--videos needs --video, the folder of the videos')
    return arguments


def make_baseline(name: str) -> 'Policy':
    """A policy without a model, by its name on the command line."""
    from thinktwice.closed_loop.policies import ConstantPolicy, ExpertPolicy, LanePolicy

    return {'expert': ExpertPolicy, 'constant': ConstantPolicy, 'lane': LanePolicy}[name]()


def make_agent_policy(
    config: str, checkpoint: str, cfg_options: dict[str, Any], controller: str, frequency: int
) -> 'Policy':
    """The policy of a trained model, with the sensors of the data that its config names."""
    from thinktwice.apis import init_agent, init_dataset, init_model, predict
    from thinktwice.closed_loop.environment import town_sensors
    from thinktwice.closed_loop.policies import AgentPolicy
    from thinktwice.datasets.pipelines import LoadCameras, LoadPoints

    model = init_model(config, checkpoint, 'cpu', cfg_options)
    dataset = init_dataset(config, 'test', cfg_options)
    if not hasattr(dataset, 'calibration'):
        raise ConfigError(f'the dataset to test on is a {type(dataset).__name__}: name one CarlaDataset')
    sensors, calibration = town_sensors(dataset.calibration)
    make_agent = partial(init_agent, model, calibration, 1 / frequency, controller)
    has_sensors = any(isinstance(step, (LoadCameras, LoadPoints)) for step in dataset.steps)
    return AgentPolicy(make_agent, partial(predict, model), sensors if has_sensors else None)


def make_ego_mlp_policy(
    config: str, cfg_options: dict[str, Any], controller: str, frequency: int
) -> 'Policy':
    """The ego-status baseline, trained on the training split of a config."""
    import torch

    from thinktwice.apis import init_dataset
    from thinktwice.closed_loop.agent import DrivingAgent
    from thinktwice.closed_loop.controllers import make_controller
    from thinktwice.closed_loop.ego_mlp import train_ego_mlp
    from thinktwice.closed_loop.policies import AgentPolicy

    torch.set_num_threads(1)
    dataset = init_dataset(config, 'train', cfg_options, labels_only=True)
    mlp = train_ego_mlp([dataset[index] for index in range(len(dataset))])

    def make_agent() -> DrivingAgent:
        tick = 1 / frequency
        chosen = make_controller(controller, tick)
        return DrivingAgent(mlp.predict, dataset.steps[:1], dataset.calibration, tick, 1, chosen)

    return AgentPolicy(make_agent, mlp.predict, sensors=None)


def main(argv: Sequence[str] | None = None) -> None:
    """Drive, show progress, print the table."""
    arguments = parse_arguments(argv)
    from thinktwice.closed_loop.evaluation import drive_routes, plan_routes
    from thinktwice.closed_loop.scoring import write_results
    from thinktwice.closed_loop.video import VideoWriter

    make_policy = partial(make_baseline, arguments.policy)
    if arguments.policy == 'agent':
        options = arguments.cfg_options
        make_policy = partial(
            make_agent_policy,
            arguments.config,
            arguments.checkpoint,
            options,
            arguments.controller,
            arguments.frequency,
        )
    elif arguments.policy == 'ego_mlp':
        options = arguments.cfg_options
        make_policy = partial(
            make_ego_mlp_policy, arguments.config, options, arguments.controller, arguments.frequency
        )
    requests = plan_routes(arguments.routes, arguments.seed, arguments.towns.split(','))
    make_watcher = None
    if arguments.video:
        shown = requests[: arguments.videos]
        make_watcher = partial(VideoWriter, arguments.video, arguments.frequency, shown)
    results: dict[int, RouteResult] = {}
    start = time.monotonic()
    for number, result in drive_routes(
        make_policy, requests, arguments.frequency, arguments.length, arguments.processes, make_watcher
    ):
        results[number] = result
        spent = time.monotonic() - start
        left = spent / len(results) * (len(requests) - len(results))
        print(
            f'[{len(results)}/{len(requests)}] {result.route_id}: score {result.driving_score:.1f}, '
            f'{result.status} ({spent:.0f} s, {left:.0f} s left)',
            flush=True,
        )
    ordered = [results[number] for number in sorted(results)]
    print(f'\n{results_table(ordered)}')
    driven, spent = sum(result.seconds for result in ordered), time.monotonic() - start
    print(f'drove {driven:.0f} s in {spent:.0f} s: {driven / spent:.1f} times real time')
    if arguments.out:
        write_results(ordered, arguments.out)
        print(f'results: {arguments.out}')
    if arguments.video:
        print(f'videos: {arguments.video}')


def results_table(results: 'Sequence[RouteResult]') -> str:
    """Scores of each route, infractions by kind, and the means."""
    from thinktwice.closed_loop.scoring import InfractionKind, summarize
    from thinktwice.tables import format_table

    kinds = {
        'pedestrian': InfractionKind.COLLISION_PEDESTRIAN,
        'vehicle': InfractionKind.COLLISION_VEHICLE,
        'static': InfractionKind.COLLISION_STATIC,
        'red light': InfractionKind.RED_LIGHT,
    }
    rows = [
        [
            result.route_id,
            f'{result.driving_score:.1f}',
            f'{result.route_completion:.0f}',
            f'{result.penalty:.2f}',
            *(str(result.count(kind)) for kind in kinds.values()),
            f'{result.outside:.0f}',
            f'{result.standing:.0f}',
            result.status,
        ]
        for result in results
    ]
    summary = summarize(results)
    rows.append(
        [
            'mean (infractions per km)',
            f'{summary.driving_score:.1f}',
            f'{summary.route_completion:.0f}',
            f'{summary.penalty:.2f}',
            *(f'{summary.per_kilometer[kind]:.1f}' for kind in kinds.values()),
            f'{sum(result.outside for result in results) / len(results):.0f}',
            f'{sum(result.standing for result in results) / len(results):.0f}',
            '',
        ]
    )
    columns = ['route', 'score', 'completion %', 'penalty', *kinds, 'outside m', 'standing s', 'status']
    return format_table(columns, rows)


if __name__ == '__main__':
    sys.exit(run_command(main))
