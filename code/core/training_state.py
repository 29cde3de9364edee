"""The state of training in a checkpoint: what a save collects and a resume restores."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mmengine
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import weights_to_cpu

from thinktwice.checkpoint.weights import check_same_weights
from thinktwice.config.differences import config_changes
from thinktwice.core.hooks.averaging import AveragedWeightsHook
from thinktwice.core.loops import TrainPosition
from thinktwice.core.schedules import continue_schedules
from thinktwice.distributed.collectives import load_statistics
from thinktwice.errors import CheckpointError, describe
from thinktwice.version import __version__

#: 1 had one state for all hooks of a class.
CHECKPOINT_FORMAT = 2


def collect_training_state(runner: Any) -> dict[str, Any]:
    """What a run needs to resume, as plain containers and tensors on the CPU.

    Args:
        runner: A ``DrivingRunner`` whose training loop is built.
    """
    position = runner.train_loop.position
    meta = dict(
        format=CHECKPOINT_FORMAT,
        version=__version__,
        mmengine_version=mmengine.__version__,
        epoch=position.epoch,
        iter=position.iteration,
        batches_done=position.batches_done,
        evaluation_is_due=position.evaluation_is_due,
        seed=runner.seed,
        world_size=runner.world_size,
        global_batch_size=runner.world_size * runner.train_dataloader.batch_size,
        cfg=runner.cfg.pretty_text,
        optimizer=type(runner.optim_wrapper.optimizer).__name__,
        experiment_name=runner.experiment_name,
        time=time.strftime('%Y-%m-%d %H:%M:%S'),
    )
    schedulers = [
        {key: value for key, value in scheduler.state_dict().items() if not callable(value)}
        for scheduler in runner.param_schedulers or []
    ]
    checkpoint = dict(
        meta=meta,
        state_dict=dict(weights_to_cpu(runner.bare_model.state_dict())),
        optimizer=_to_cpu(runner.optim_wrapper.state_dict()),
        param_schedulers=_to_cpu(schedulers),
        hooks={key: hook.state_dict() for key, hook in _keyed_hooks(runner) if hasattr(hook, 'state_dict')},
    )
    runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
    return _to_cpu(checkpoint)


def _to_cpu(value: Any) -> Any:
    """Copy of nested plain containers with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value


def _keyed_hooks(runner: Any) -> Iterator[tuple[str, Hook]]:
    """Hooks by their keys in a checkpoint: the class name, with a number from the second of a class on."""
    counts: Counter[str] = Counter()
    for hook in runner.hooks:
        name = type(hook).__name__
        counts[name] += 1
        yield (name if counts[name] == 1 else f'{name} {counts[name]}'), hook


def select_weights_in_training(runner: Any, checkpoint: dict[str, Any], filename: str) -> None:
    """Check weights and moving average of a run to resume; if no average is kept now, drop it, in place.

    ``state_dict`` of the file is then the average; the optimizer's state belongs to the weights beside it.

    Raises:
        CheckpointError: One of the two does not fit the model.
    """
    if 'ema_state_dict' not in checkpoint:
        return
    own = runner.bare_model.state_dict()
    in_training = {
        name.removeprefix('module.'): value
        for name, value in checkpoint['ema_state_dict'].items()
        if name.startswith('module.')
    }
    check_same_weights(own, checkpoint['state_dict'], filename)
    check_same_weights(own, in_training, f'{filename} (ema_state_dict)')
    if not any(isinstance(hook, AveragedWeightsHook) for hook in runner.hooks):
        checkpoint['state_dict'] = in_training
        runner.logger.warning(
            f'{filename} holds a moving average of the weights, and ema_momentum is not set: the run '
            'resumes from the weights in training, the average ends here'
        )


def restore_training_state(runner: Any, checkpoint: dict[str, Any], filename: str) -> None:
    """Bring a run whose weights are loaded to the step after the last one of a checkpoint.

    The optimizer's state is the checkpoint's; learning rates, schedules and other settings of the
    optimizer are the config's. What differs from the checkpoint's run is logged.

    Args:
        runner: A ``DrivingRunner``; its optimizer wrapper is built here.
        checkpoint: From ``load_checkpoint``.
        filename: Its file, for messages.

    Raises:
        CheckpointError: The checkpoint holds weights only, or its optimizer or schedules do not fit.
    """
    meta = checkpoint.get('meta', {})
    if 'optimizer' not in checkpoint or 'iter' not in meta:
        raise CheckpointError(
            f'{filename} holds weights but no training state; start from it with --load-from instead'
        )
    if changes := config_changes(meta.get('cfg', ''), runner.cfg.pretty_text):
        listed = '\n  '.join(changes)
        runner.logger.warning(f'the config differs from that of the checkpoint:\n  {listed}')
    position = _position_to_resume(runner, meta)
    runner.train_loop.restore(position)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    try:
        is_same_schedule = continue_schedules(
            runner.param_schedulers or [],
            runner.optim_wrapper.optimizer,
            checkpoint.get('param_schedulers', []),
            lambda: load_optimizer(runner.optim_wrapper, checkpoint['optimizer']),
            position,
            len(runner.train_dataloader),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f'the optimizer or schedules in {filename} do not fit those of the config ({describe(error)}): '
            'start from its weights with --load-from instead'
        ) from error
    optimizer = type(runner.optim_wrapper.optimizer).__name__
    if meta.get('optimizer', optimizer) != optimizer:
        runner.logger.warning(
            f'the checkpoint holds the state of {meta["optimizer"]}, the config says {optimizer}: '
            'the state has no effect'
        )
    if not is_same_schedule:
        runner.logger.warning(
            'the schedules are not those of the checkpoint (another number of batches or epochs, or '
            'another learning rate): those of the config apply, as if they had applied from the start'
        )
    _restore_hooks(runner, checkpoint.get('hooks', {}), meta.get('format'))
    load_statistics(runner.bare_model, checkpoint.get('statistics_of_processes'))


def load_optimizer(wrapper: OptimWrapper, saved: dict[str, Any]) -> None:
    """Load the state of an optimizer, in the memory format of the parameters.

    Fused updates read parameter and state in the order of memory, whatever their shapes and strides are:
    a state of another format gives wrong updates, a smaller one ends the process.

    Args:
        wrapper: Newly built from the config.
        saved: Its ``state_dict`` in a checkpoint.

    Raises:
        ValueError: The state does not belong to the parameters.
    """
    numbers = [number for group in saved['param_groups'] for number in group['params']]
    if len(set(numbers)) < len(numbers) or not saved['state'].keys() <= set(numbers):
        raise ValueError('its states and its parameters are numbered differently')
    wrapper.load_state_dict(saved)
    optimizer = wrapper.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for number, parameter in zip(numbers, parameters, strict=True):
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
            if is_dense and value.shape == parameter.shape:
                if value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            elif optimizer.defaults.get('fused') and name != 'step':
                raise ValueError(f'{name} of parameter {number} is not of its shape {list(parameter.shape)}')


def _position_to_resume(runner: Any, meta: dict[str, Any]) -> TrainPosition:
    """Position after the last step; logs what another seed or number of samples per step changes."""
    seed = meta.get('seed')
    if seed is not None and seed != runner.seed:
        runner.logger.warning(
            f'the checkpoint was trained with seed {seed}, this run has {runner.seed}: '
            'the order of samples changes from here on'
        )
    batches_done = meta.get('batches_done', 0)
    old_batch = meta.get('global_batch_size')
    new_batch = runner.world_size * runner.train_dataloader.batch_size
    if old_batch is not None and old_batch != new_batch:
        samples_done = batches_done * old_batch
        batches_done = samples_done // new_batch
        runner.logger.warning(
            f'the checkpoint was trained with {old_batch} samples per step, this run has {new_batch}: '
            'the learning rate follows only with --autoscale-lr, and of the '
            f'{samples_done} samples done in this epoch some are seen again and others not at all, since '
            'their order depends on that number'
        )
    return TrainPosition(meta['epoch'], meta['iter'], batches_done, meta.get('evaluation_is_due', False))


def _restore_hooks(runner: Any, states: dict[str, Any], checkpoint_format: int | None) -> None:
    for key, hook in _keyed_hooks(runner):
        if hasattr(hook, 'load_state_dict'):
            saved_as = type(hook).__name__ if checkpoint_format == 1 else key
            hook.load_state_dict(states.get(saved_as, {}))
