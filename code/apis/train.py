"""Training from a config."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier

from thinktwice.checkpoint.run_folder import named_by_pointer
from thinktwice.command_line import find_interrupt
from thinktwice.config.differences import check_same_config
from thinktwice.config.load import choose_work_dir, load_config, make_work_dir, require_keys
from thinktwice.config.overrides import check_parts
from thinktwice.core.loader_workers import with_hints
from thinktwice.core.runner import DrivingRunner
from thinktwice.distributed.launch import process_group
from thinktwice.errors import ConfigError, RunPreempted, StartError, as_config_error, as_user_error
from thinktwice.release_2023.checkpoint.adaptation import OfficialWeightsHook


def train(
    config: str | Path | Config,
    *,
    work_dir: str | Path | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    resume: str | Path | bool | None = None,
    load_from: str | Path | None = None,
    validate: bool = True,
    seed: int | None = None,
    deterministic: bool = False,
    amp: bool = False,
    autoscale_lr: bool = False,
    profile: int | None = None,
    trust_checkpoint: bool = False,
) -> Path | None:
    """Train as a config says. Collective.

    Args:
        config: A config file, or the ``Config`` read from one.
        work_dir: Folder of logs and checkpoints; takes precedence over ``work_dir`` of the config.
        cfg_options: Overrides of the config, dotted keys to values.
        launcher: How the ranks were started: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        resume: A checkpoint to continue from; True or ``'auto'`` for the newest one of the work dir, if any.
        load_from: A checkpoint whose weights a new run starts from.
        validate: Whether to evaluate during training.
        seed: Random seed; None for ``randomness.seed`` of the config.
        deterministic: Use deterministic algorithms only.
        amp: Mixed precision: bfloat16, unless ``optim_wrapper.amp_dtype`` names another.
        autoscale_lr: Scale the learning rate by samples per step / ``auto_scale_lr.base_batch_size``.
        profile: Steps to profile, see ``ProfileHook``; None for no profile.
        trust_checkpoint: Load checkpoints that hold pickled objects; this can run code of their author.

    Returns:
        The newest checkpoint, None if none was saved.

    Raises:
        ConfigError: The config is wrong, the arguments contradict each other, or there is no data.
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint is damaged or does not fit.
        LaunchError: The ranks cannot be started.
        StartError: The run failed before its first step, or first evaluation, was done.
        TrainingDivergedError: Losses or gradients of several steps in a row are not finite.
        RunPreempted: A signal stopped the run; it can be resumed.
    """
    options = dict(cfg_options or {})
    if seed is not None:
        options['randomness.seed'] = seed
    if deterministic:
        options['randomness.deterministic'] = True
    cfg = load_config(config, options)
    require_keys(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'training')
    cfg.work_dir = choose_work_dir(cfg, work_dir)
    cfg.launcher, cfg.trust_checkpoint = launcher, trust_checkpoint
    if amp:
        cfg.optim_wrapper.amp_dtype = cfg.optim_wrapper.get('amp_dtype') or 'bfloat16'
    if autoscale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError('--autoscale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if profile:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='ProfileHook', steps=profile)]
    if not validate:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        if checkpoint := cfg.get('default_hooks', {}).get('checkpoint'):
            checkpoint.keep_best = None
    _choose_start(cfg, 'auto' if resume is True else resume or None, load_from)
    check_parts(cfg)
    try:
        return _run(cfg)
    except BaseException as error:
        if find_interrupt(error):
            newest = _newest_checkpoint(cfg)
            hint = f'--resume continues from {newest}' if newest else f'no checkpoint in {cfg.work_dir} yet'
            raise KeyboardInterrupt(hint) from error
        raise


def _choose_start(cfg: Config, resume: str | Path | None, load_from: str | Path | None) -> None:
    """Set where the weights come from: nothing, ``load_from`` or ``resume``."""
    if resume and load_from and resume != 'auto':
        raise ConfigError('--resume FILE and --load-from both name a checkpoint; give one of them')
    for name, file in (('--load-from', load_from), ('--resume', resume)):
        if file and file != 'auto' and not Path(file).is_file():
            raise FileNotFoundError(f'{name}: checkpoint {file} does not exist')
    if load_from:
        cfg.load_from = str(load_from)
    if resume == 'auto':
        cfg.resume = 'auto'  # load_from, if given, is where a run without a checkpoint starts
    elif resume:
        cfg.resume, cfg.load_from = True, str(resume)


def _run(cfg: Config) -> Path | None:
    make_work_dir(cfg.work_dir)
    with process_group(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {})):
        check_same_config(cfg)
        _train(cfg)
        return _newest_checkpoint(cfg)


def _train(cfg: Config) -> None:
    with as_config_error(config=cfg):
        runner = DrivingRunner.from_cfg(cfg)
        runner.register_hook(OfficialWeightsHook())
        runner.build_all()
    try:
        with as_user_error(StartError, runner.train_loop.describe_failure), with_hints():
            runner.train()
    except RuntimeError as error:
        if 'Expected to have finished reduction' not in str(error):
            raise
        raise ConfigError(
            'some parameters get no gradient, which distributed training does not expect: let a loss use '
            'them, freeze them, or pass --cfg-options model_wrapper_cfg.find_unused_parameters=True'
        ) from error
    barrier()  # no rank closes its connections while another still communicates
    if getattr(runner, 'preempted', False):
        raise RunPreempted(f'stopped by a signal; --resume continues the run in {cfg.work_dir}')


def _newest_checkpoint(cfg: Config) -> Path | None:
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    folders = (Path(folder) for folder in (hook.get('out_dir'), cfg.work_dir) if folder)
    return next((path for folder in folders if (path := named_by_pointer(folder))), None)
