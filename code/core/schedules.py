"""Schedules of learning rates in a resumed run."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from thinktwice.core.loops import TrainPosition

#: Keys of a schedule's state that change during training; the others define the schedule.
PROGRESS = frozenset({'last_step', '_global_step', '_last_value', 'verbose'})


def continue_schedules(
    schedules: Sequence[Any],
    optimizer: Optimizer,
    saved_schedules: Sequence[dict],
    load_optimizer: Callable[[], None],
    position: TrainPosition,
    batches: int,
) -> bool:
    """Bring the optimizer and its schedules to the position of a resumed run.

    If the schedules of the config are those of the checkpoint, they resume exactly. If not (another
    number of batches per epoch, number of epochs or learning rate), those of the config are stepped
    up to the epoch and batch of the position, so that they end when training ends.

    Args:
        schedules: Parameter schedulers of mmengine, newly built from the config.
        optimizer: Newly built from the config.
        saved_schedules: State of each schedule, from the checkpoint.
        load_optimizer: Loads the checkpoint's state into ``optimizer``.
        position: Where the run resumes.
        batches: Batches per epoch of this run.

    Returns:
        Whether the schedules are those of the checkpoint.
    """
    is_same = [_definition(s.state_dict()) for s in schedules] == [_definition(s) for s in saved_schedules]
    if not is_same:
        _play(schedules, position, batches)
    configured = [_settings(group) for group in optimizer.param_groups]
    load_optimizer()
    scheduled = {name for s in schedules for name in (s.param_name, f'initial_{s.param_name}')}
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        group.update({k: v for k, v in settings.items() if not is_same or k not in scheduled})
    if is_same:
        for schedule, state in zip(schedules, saved_schedules, strict=True):
            schedule.load_state_dict(state)
    return is_same


def _definition(state: dict) -> dict:
    return {key: value for key, value in state.items() if key not in PROGRESS and not callable(value)}


def _settings(group: dict) -> dict:
    return {key: value for key, value in group.items() if key != 'params'}


def _play(schedules: Sequence[Any], position: TrainPosition, batches: int) -> None:
    """Step the schedules as training up to ``position`` would have done."""
    done = position.epoch * batches + position.batches_done
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # no optimizer step came in between
        for batch in range(1, done + 1):
            for schedule in schedules:
                if not schedule.by_epoch or batch % batches == 0:
                    schedule.step()
