"""Measure data loading and training on this machine.

Examples:
    python tools/benchmark.py loader configs/thinktwice.py
    python tools/benchmark.py loader configs/thinktwice.py --data-root raw/ packed/ --workers 0 1 2
    python tools/benchmark.py step configs/thinktwice_minitown.py --json before.json
    torchrun --nproc_per_node 1 tools/benchmark.py scaling CONFIG --launcher pytorch --json 1.json
    torchrun --nproc_per_node 2 tools/benchmark.py scaling CONFIG --launcher pytorch --json 2.json
    python tools/benchmark.py compare 1.json 2.json
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinktwice.command_line import Parser, add_override_flag, natural, positive, run_command
from thinktwice.distributed.ranks import LAUNCHERS
from thinktwice.errors import ConfigError, UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    loader = commands.add_parser(
        'loader',
        help='samples/s of the training data and time per stage',
        description='Time the training data of a config with a batch size of 1 and one thread per process.',
    )
    loader.add_argument(
        '--data-root', nargs='+', help='datasets to compare, recorded or packed; default: that of the config'
    )
    loader.add_argument(
        '--workers', type=natural, nargs='+', default=[0, 1, 2], help='numbers of worker processes'
    )
    loader.add_argument('--samples', type=positive, default=30, help='samples to time in each run')
    loader.set_defaults(run=run_loader)
    scaling = commands.add_parser(
        'scaling',
        help='time of a training step, of gradient exchange and of loading',
        description='Time training steps with the world size that this was started with; the batch size '
        'per rank is that of the config. The columns are explained in docs/training.md.',
    )
    scaling.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how the ranks were started')
    scaling.add_argument('--steps', type=positive, default=8, help='steps to time')
    scaling.set_defaults(run=run_scaling)
    step = commands.add_parser(
        'step',
        help='time, arithmetic and memory of a training step, per phase and module',
        description='Time training steps on one device and compare them with their floor: the same '
        'convolutions and matrix products alone.',
    )
    step.add_argument('--steps', type=positive, default=5, help='steps to time')
    step.set_defaults(run=run_step)
    for command in (loader, scaling, step):
        command.add_argument('config', help='config file')
        command.add_argument('--json', type=Path, help='also write the figures to this file')
        add_override_flag(command)
    compare = commands.add_parser(
        'compare', help='files of `scaling --json` or of `step --json` in one table'
    )
    compare.add_argument(
        'files',
        type=Path,
        nargs='+',
        help='files of one kind: the smallest world size, or the state before, first',
    )
    compare.set_defaults(run=run_compare)
    return parser.parse_args(arguments)


def run_loader(options: argparse.Namespace) -> None:
    """Time each dataset with each number of workers."""
    from mmengine.registry import init_default_scope

    from thinktwice.benchmark.loader import format_timings, measure_loader
    from thinktwice.config.load import load_config, require_keys
    from thinktwice.datasets import collate_samples
    from thinktwice.files import write_json

    config = load_config(options.config, options.cfg_options)
    require_keys(config, ['train_dataloader'], 'timing the loader')
    init_default_scope(config.default_scope)
    dataset = config.train_dataloader.dataset.to_dict()
    if 'data_root' not in dataset:
        raise ConfigError('train_dataloader.dataset has no data_root: name one CarlaDataset')
    timings = [
        measure_loader({**dataset, 'data_root': root}, collate_samples, workers, options.samples)
        for root in options.data_root or [dataset['data_root']]
        for workers in options.workers
    ]
    print(format_timings(timings))
    if options.json:
        write_json(options.json, [asdict(timing) for timing in timings])


def run_scaling(options: argparse.Namespace) -> None:
    """Time training with the world size of the launcher. Collective."""
    from mmengine.dist import is_main_process

    from thinktwice.benchmark.scaling import format_figures, measure_scaling
    from thinktwice.distributed.launch import process_group
    from thinktwice.files import write_json

    cfg = load_training(options, options.launcher)
    with process_group(options.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {})):
        with tempfile.TemporaryDirectory() as cfg.work_dir:
            figures = measure_scaling(cfg, options.steps)
        if is_main_process():
            print(format_figures([figures]))
            if options.json:
                write_json(options.json, asdict(figures))


def run_step(options: argparse.Namespace) -> None:
    """Time training steps on one device."""
    from thinktwice.benchmark.step import format_step, measure_step
    from thinktwice.files import write_json

    cfg = load_training(options, 'none')
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        figures = measure_step(cfg, options.steps)
    print(format_step(figures))
    if options.json:
        write_json(options.json, asdict(figures))


def load_training(options: argparse.Namespace, launcher: str) -> 'Config':
    """Load the config of a training that evaluates and saves nothing."""
    from thinktwice.config.load import load_config, require_keys

    cfg = load_config(options.config, options.cfg_options)
    require_keys(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'training')
    cfg.launcher, cfg.log_level = launcher, 'WARNING'
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks = {**cfg.get('default_hooks', {}), 'checkpoint': None}
    return cfg


def run_compare(options: argparse.Namespace) -> None:
    """Print the figures of several runs in one table."""
    from thinktwice.benchmark.scaling import ScalingFigures, format_figures
    from thinktwice.benchmark.step import StepFigures, compare_steps

    figures = []
    kind: Any = None
    for file in options.files:
        try:
            entries = json.loads(file.read_text(encoding='utf-8'))
            kind = kind or (StepFigures if 'modules' in entries else ScalingFigures)
            figures.append(kind(**entries))
        except (ValueError, TypeError, RecursionError) as error:
            command = 'step' if kind is StepFigures else 'scaling'
            raise UserError(
                f'{file} is not a file of `tools/benchmark.py {command} --json`: {error}'
            ) from error
    print(compare_steps(figures) if kind is StepFigures else format_figures(figures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name."""
    options = parse_arguments(arguments)
    options.run(options)
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
