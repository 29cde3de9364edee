"""Measure parts of the framework on this machine.

Examples:
    python tools/benchmark.py loader configs/thinktwice.py
    python tools/benchmark.py loader configs/thinktwice.py --data-root raw/ packed/ --workers 0 1 2
    python tools/benchmark.py scaling configs/thinktwice_minitown.py --processes 1 2
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmengine.registry import init_default_scope

from thinktwice.benchmark.loader import format_table, made_up_png, measure_loader
from thinktwice.benchmark.scaling import format_scaling, measure_process, measure_scaling, write_figures
from thinktwice.command_line import KeyValueAction, run_command
from thinktwice.config.load import load_config
from thinktwice.datasets import collate_samples
from thinktwice.distributed.launch import start_distributed, stop_distributed
from thinktwice.errors import ConfigError
from thinktwice.number_flags import natural, positive


def add_loader_command(commands: argparse._SubParsersAction) -> None:
    """Add ``benchmark.py loader``."""
    parser = commands.add_parser(
        'loader',
        help='samples a second and yardsticks a stage of the data loader',
        description='Time the training data of a config: one sample a batch, one thread a process. '
        'A yardstick is the decoding of one 1600x900 PNG in the same run.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--loader', default='train_dataloader', help='key of the loader in the config')
    parser.add_argument(
        '--data-root', nargs='+', help='datasets to compare, recorded or packed; default: that of the config'
    )
    parser.add_argument(
        '--workers', type=natural, nargs='+', default=[0, 1, 2], help='numbers of worker processes'
    )
    parser.add_argument('--samples', type=positive, default=30, help='samples to time in each run')
    parser.add_argument('--yardstick', type=Path, help='a 1600x900 PNG; default: a made-up one')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction, help='overrides of the config')
    parser.set_defaults(run=run_loader)


def run_loader(options: argparse.Namespace) -> int:
    """Time each dataset with each number of workers and print the table."""
    config = load_config(options.config, options.cfg_options)
    init_default_scope(config.default_scope)
    if options.loader not in config:
        raise ConfigError(f'--loader {options.loader}: {options.config} has no such key')
    if options.samples < 1 or min(options.workers) < 0:
        raise ConfigError('--samples must be at least 1 and --workers at least 0')
    dataset = config[options.loader].dataset.to_dict()
    png = options.yardstick.read_bytes() if options.yardstick else made_up_png()
    timings = [
        measure_loader({**dataset, 'data_root': root}, collate_samples, workers, options.samples, png)
        for root in options.data_root or [dataset['data_root']]
        for workers in options.workers
    ]
    print(format_table(timings))
    if options.json:
        options.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=1))
    return 0


def add_scaling_command(commands: argparse._SubParsersAction) -> None:
    """Add ``benchmark.py scaling``."""
    parser = commands.add_parser(
        'scaling',
        help='step time, loader, gradient bytes and overlap with one process and with several',
        description='Weak scaling on this machine: each process trains on batches of the same size. '
        'The columns are explained in docs/training.md.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--processes', type=positive, nargs='+', default=[1, 2], help='numbers of processes')
    parser.add_argument('--steps', type=positive, default=8, help='steps to time in each run')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction, help='overrides of the config')
    parser.add_argument('--one-process', type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(run=run_scaling)


def run_scaling(options: argparse.Namespace) -> int:
    """Measure each number of processes and print the table."""
    if options.one_process:
        return run_one_process(options)
    if options.steps < 1 or min(options.processes) < 1:
        raise ConfigError('--steps and --processes must be at least 1')
    load_config(options.config, options.cfg_options)  # what is wrong with it shows once, here
    words = [word.replace('{', '{{').replace('}', '}}') for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(__file__).resolve()), *words, '--one-process', '{out}']
        figures = measure_scaling(command, options.processes, Path(folder))
    print(format_scaling(figures))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in figures], indent=1))
    return 0


def run_one_process(options: argparse.Namespace) -> int:
    """Measure as one of the processes that ``run_scaling`` starts. Collective."""
    cfg = load_config(options.config, options.cfg_options)
    cfg.launcher, cfg.work_dir = 'pytorch', str(options.one_process.with_suffix(''))
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    start_distributed('pytorch')
    figures = measure_process(cfg, options.steps)
    if os.environ['RANK'] == '0':
        write_figures(figures, options.one_process)
    stop_distributed()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_loader_command(commands)
    add_scaling_command(commands)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == '__main__':
    sys.exit(run_command(main))
