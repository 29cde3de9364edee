"""Evaluating a checkpoint: what ``tools/test.py`` does."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from thinktwice.apis.data_check import check_datasets
from thinktwice.command_line import add_common_flags, setup_phase, take_common_flags
from thinktwice.config.load import choose_work_dir, load_config, make_work_dir, require_keys
from thinktwice.config.overrides import check_parts
from thinktwice.distributed.launch import start_distributed, stop_distributed

EXAMPLE = """example:
  python tools/test.py configs/thinktwice_minitown.py work_dirs/thinktwice_minitown/best_open_loop_ade.pth
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of ``tools/test.py``.

    Args:
        argv: Arguments, None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint on the test split.',
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE', help='write the metrics to a JSON file')
    add_common_flags(parser)
    arguments = parser.parse_args(argv)
    take_common_flags(arguments)
    return arguments


def build_tester(cfg: Config, checkpoint: str) -> Any:
    """Runner that evaluates a checkpoint on ``cfg.test_dataloader``.

    Args:
        cfg: A config from ``load_config`` with its ``work_dir`` set.
        checkpoint: Checkpoint file.

    Returns:
        A ``DrivingRunner``; its ``test()`` gives the metrics, equal on all processes.

    Raises:
        FileNotFoundError: There is no such checkpoint or no data.
        ConfigError: The config is wrong.
    """
    from thinktwice.core.runner import DrivingRunner
    from thinktwice.release_2023.checkpoint.adaptation import OfficialWeightsHook

    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint {checkpoint} does not exist')
    cfg.load_from, cfg.resume = checkpoint, False
    for part in ('dataloader', 'evaluator'):
        cfg[f'test_{part}'] = cfg.get(f'test_{part}') or cfg.get(f'val_{part}')
    require_keys(cfg, ('model', 'test_dataloader', 'test_evaluator'), 'evaluating')
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
    check_parts(cfg)
    check_datasets(cfg, ('test_dataloader',))
    # a run that only evaluates needs nothing of training
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint = cfg.default_hooks.param_scheduler = None
    runner = setup_phase(lambda: DrivingRunner.from_cfg(cfg))
    runner.register_hook(OfficialWeightsHook(fine_tuning=False))
    setup_phase(lambda: runner.test_dataloader)
    return runner


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, evaluate, print. Collective.

    Args:
        argv: Arguments, None for those of the process.

    Returns:
        The exit code.
    """
    arguments = parse_arguments(argv)
    cfg = load_config(arguments.config, arguments.cfg_options)
    cfg.work_dir = choose_work_dir(cfg, arguments.work_dir)
    cfg.launcher = arguments.launcher
    cfg.trust_checkpoint = arguments.trust_checkpoint
    make_work_dir(cfg.work_dir)
    start_distributed(arguments.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
    try:
        metrics = build_tester(cfg, arguments.checkpoint).test()
        if is_main_process() and arguments.out:
            Path(arguments.out).write_text(json.dumps(metrics, indent=1))
    finally:
        stop_distributed()
    return 0
