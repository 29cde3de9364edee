"""Training from a config: what ``train.py`` does."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import barrier

from thinktwice.apis.data_check import check_datasets
from thinktwice.checkpoint.file import named_by_pointer
from thinktwice.command_line import (
    add_common_flags,
    interruption_behind,
    setup_phase,
    take_common_flags,
    warn_deprecated,
)
from thinktwice.config.load import choose_work_dir, load_config, make_work_dir, require_keys
from thinktwice.config.overrides import check_parts
from thinktwice.config.same_config import check_same_config
from thinktwice.core.hooks.preemption import PREEMPTED_EXIT_CODE, leave_on_signals
from thinktwice.distributed.launch import start_distributed, stop_distributed
from thinktwice.errors import ConfigError

EXAMPLE = """example:
  python train.py configs/thinktwice_minitown.py --work-dir work_dirs/minitown
  python train.py configs/thinktwice.py --cfg-options is_dev=True optim_wrapper.optimizer.lr=2e-4
  torchrun --nproc_per_node 8 train.py configs/thinktwice.py --launcher pytorch --resume
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of ``train.py``; those of earlier OpenMMLab releases are kept and warn.

    Args:
        argv: Arguments, None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description='Train a model.', epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, for example configs/thinktwice.py')
    add_common_flags(parser)
    parser.add_argument(
        '--resume-from',
        '--resume',
        dest='resume',
        nargs='?',
        const='auto',
        metavar='auto|FILE',
        help='continue: from the newest checkpoint of the work dir (no value, or auto; starts '
        'anew if there is none), or from a file',
    )
    parser.add_argument('--load-from', metavar='FILE', help='start a new run from the weights of a file')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--seed', type=int, help='random seed (default: randomness.seed of the config)')
    parser.add_argument('--deterministic', action='store_true', help='use deterministic algorithms only')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: bfloat16, unless optim_wrapper.amp_dtype of the config names another',
    )
    parser.add_argument(
        '--autoscale-lr',
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.base_batch_size',
    )
    parser.add_argument('--gpus', type=int, help='deprecated: one process uses one GPU; see --launcher')
    parser.add_argument('--gpu-ids', type=int, nargs='+', help='deprecated: GPU of a single process')
    arguments = parser.parse_args(argv)
    take_common_flags(arguments)
    _take_gpu_flags(arguments)
    return arguments


def _take_gpu_flags(arguments: argparse.Namespace) -> None:
    if arguments.gpus is not None:
        warn_deprecated(
            '--gpus is deprecated: a process uses one GPU; for more start torchrun with --launcher'
        )
    if arguments.gpu_ids is not None:
        warn_deprecated('--gpu-ids is deprecated: use CUDA_VISIBLE_DEVICES; the first id is taken')
        if torch.cuda.is_available() and arguments.launcher == 'none':
            torch.cuda.set_device(arguments.gpu_ids[0])


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the arguments ask for, everything derived.

    Raises:
        ConfigError: Arguments that contradict each other, or a wrong config.
    """
    options = dict(arguments.cfg_options or {})
    if arguments.seed is not None:
        options['randomness.seed'] = arguments.seed
    if arguments.deterministic:
        options['randomness.deterministic'] = True
    cfg = load_config(arguments.config, options)
    require_keys(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'training')
    cfg.work_dir = choose_work_dir(cfg, arguments.work_dir)
    cfg.launcher = arguments.launcher
    cfg.trust_checkpoint = arguments.trust_checkpoint
    if arguments.amp:
        cfg.optim_wrapper.amp_dtype = cfg.optim_wrapper.get('amp_dtype') or 'bfloat16'
    if arguments.autoscale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError('--autoscale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if arguments.no_validate:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        if checkpoint := cfg.get('default_hooks', {}).get('checkpoint'):
            checkpoint.keep_best = None
    _take_start(cfg, arguments)
    return cfg


def _take_start(cfg: Config, arguments: argparse.Namespace) -> None:
    """Where the weights come from: nothing, ``--load-from`` or ``--resume``."""
    if arguments.resume and arguments.load_from and arguments.resume != 'auto':
        raise ConfigError('--resume FILE and --load-from both name a checkpoint; give one of them')
    for name, file in (('--load-from', arguments.load_from), ('--resume', arguments.resume)):
        if file and file != 'auto' and not Path(file).is_file():
            raise FileNotFoundError(f'{name}: checkpoint {file} does not exist')
    if arguments.load_from:
        cfg.load_from = arguments.load_from
    if arguments.resume == 'auto':
        cfg.resume = 'auto'  # load_from, if given, is where a run without a checkpoint starts
    elif arguments.resume:
        cfg.resume, cfg.load_from = True, arguments.resume


def train(cfg: Config) -> int:
    """Train as ``cfg`` says. Collective.

    Returns:
        Exit code: 0, or 75 if a signal stopped the run and it can be resumed.
    """
    from thinktwice.core.runner import DrivingRunner
    from thinktwice.release_2023.checkpoint.adaptation import OfficialWeightsHook

    runner = setup_phase(lambda: DrivingRunner.from_cfg(cfg))
    runner.register_hook(OfficialWeightsHook())
    setup_phase(runner.build_all)
    runner.train()
    barrier()  # nobody tears its connections down while another still talks
    return PREEMPTED_EXIT_CODE if getattr(runner, 'preempted', False) else 0


@leave_on_signals()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, assemble and run. Collective.

    Args:
        argv: Arguments, None for those of the process.

    Returns:
        The exit code of ``train``.
    """
    arguments = parse_arguments(argv)
    cfg = config_of(arguments)
    try:
        check_parts(cfg)
        check_datasets(cfg)
        make_work_dir(cfg.work_dir)
        distributed_options = cfg.get('env_cfg', {}).get('dist_cfg', {})
        start_distributed(arguments.launcher, **distributed_options)
        try:
            check_same_config(cfg)
            return train(cfg)
        finally:
            stop_distributed()
    except BaseException as error:
        if interruption_behind(error):
            raise KeyboardInterrupt(_how_to_go_on(cfg)) from error
        raise


def _how_to_go_on(cfg: Config) -> str:
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    for folder in (hook.get('out_dir') or cfg.work_dir, cfg.work_dir):
        if newest := named_by_pointer(Path(folder)):
            return f'--resume goes on from {newest}'
    return f'no checkpoint was saved in {folder} yet'
