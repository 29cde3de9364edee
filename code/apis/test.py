"""Evaluating a checkpoint."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from thinktwice.config.load import choose_work_dir, load_config, make_work_dir, require_keys
from thinktwice.config.overrides import check_parts
from thinktwice.core.evaluation.reliance import ExchangedInputs, exchangeable_inputs, reliance_table
from thinktwice.core.evaluation.table import classes_table, parts_table
from thinktwice.core.hooks import HealthHook
from thinktwice.core.loader_workers import with_hints
from thinktwice.core.runner import DrivingRunner
from thinktwice.distributed.launch import process_group
from thinktwice.errors import StartError, as_config_error, as_user_error
from thinktwice.files import make_folder, write_json
from thinktwice.release_2023.checkpoint.adaptation import OfficialWeightsHook


def test(
    config: str | Path | Config,
    checkpoint: str | Path,
    *,
    out: str | Path | None = None,
    work_dir: str | Path | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
    reliance: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint on the test split, or the validation split if there is no other. Collective.

    Args:
        config: A config file, or the ``Config`` read from one.
        checkpoint: A checkpoint of this framework, or an official one of 2023 for
            ``configs/thinktwice_reference.py``.
        out: JSON file for the metrics; its folder is made.
        work_dir: Folder of logs; takes precedence over ``work_dir`` of the config.
        cfg_options: Overrides of the config, dotted keys to values.
        launcher: How the ranks were started: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        trust_checkpoint: Load checkpoints that hold pickled objects; this can run code of their author.
        reliance: Evaluate again with each input (see ``exchangeable_inputs``) exchanged among the samples,
            by the seed of the config: one more pass over the data for each, which reads twice the samples.

    Returns:
        The metrics, equal on all ranks; those with an exchanged input are named
        ``reliance/<input>/<metric>``.

    Raises:
        ConfigError: The config is wrong, or there is no data.
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint is damaged or does not fit the model.
        LaunchError: The ranks cannot be started.
        StartError: The evaluation failed: config, data and checkpoint do not fit.
    """
    cfg = load_config(config, cfg_options)
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint {checkpoint} does not exist')
    cfg.work_dir = choose_work_dir(cfg, work_dir)
    cfg.launcher, cfg.trust_checkpoint = launcher, trust_checkpoint
    cfg.load_from, cfg.resume = str(checkpoint), False
    for part in ('dataloader', 'evaluator'):
        cfg[f'test_{part}'] = cfg.get(f'test_{part}') or cfg.get(f'val_{part}')
    require_keys(cfg, ('model', 'test_dataloader', 'test_evaluator'), 'evaluating')
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
    check_parts(cfg)
    # the parts that only training needs
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook.get('type') == 'HealthHook']
    cfg.default_hooks = {**cfg.get('default_hooks', {}), 'checkpoint': None, 'param_scheduler': None}
    make_work_dir(cfg.work_dir)
    if out is not None:
        make_folder(Path(out).parent)
    with process_group(launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {})):
        metrics = _evaluate(cfg, reliance)
        if out is not None and is_main_process():
            write_json(Path(out), metrics)
        return metrics


def _evaluate(cfg: Config, reliance: bool) -> dict[str, float]:
    with as_config_error(config=cfg):
        runner = DrivingRunner.from_cfg(cfg)
    runner.register_hook(OfficialWeightsHook(fine_tuning=False))
    with as_user_error(StartError, lambda: 'the evaluation failed'), with_hints():
        metrics = runner.test()
        if 'open_loop/ade' in metrics:
            runner.logger.info(
                f'parts of the evaluation:\n{parts_table(metrics)}\n\n{classes_table(metrics)}'
            )
        return {**metrics, **_exchanged_metrics(runner, metrics)} if reliance else metrics


def _exchanged_metrics(runner: DrivingRunner, metrics: dict[str, float]) -> dict[str, float]:
    """Evaluate a tested runner again with each input exchanged; logs a table of ADE and FDE. Collective."""
    loop = runner.test_loop
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, HealthHook)]
    dataset = loop.dataloader.dataset
    results: dict[str, float] = {}
    for name in exchangeable_inputs(dataset[0]['inputs']):
        runner.logger.info(f'evaluating with exchanged input: {name}')
        exchanged = ExchangedInputs(dataset, name, runner.seed)
        loader = {**runner.cfg.test_dataloader, 'dataset': exchanged, 'persistent_workers': False}
        loop.dataloader = runner.build_dataloader(loader, runner.seed)
        results |= {f'reliance/{name}/{key}': value for key, value in loop.run().items()}
    runner.visualizer.add_scalars({**metrics, **results})
    runner.visualizer.close()
    if 'open_loop/ade' in metrics:
        runner.logger.info(f'reliance on inputs:\n{reliance_table({**metrics, **results})}')
    return results
