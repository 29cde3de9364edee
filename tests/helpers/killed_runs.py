"""``train.py`` in a process that kills itself, hangs or fails at a chosen moment."""

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from helpers.ranks import run_train

TOY_CONFIG = str(Path(__file__).resolve().parent / 'toy_config.py')


def die(*unused: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def hang(*unused: Any) -> None:
    time.sleep(600)


def fill_disk(*unused: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def input_output_error(*unused: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def key_error(*unused: Any) -> None:
    raise KeyError('no such entry')


def stop_politely(*unused: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


ACTIONS = {
    'die': die,
    'hang': hang,
    'fill_disk': fill_disk,
    'input_output_error': input_output_error,
    'key_error': key_error,
    'stop_politely': stop_politely,
}


def counted(action: Callable, count: int, original: Callable) -> Callable:
    """``original``, before whose ``count``-th call the action happens."""
    calls = [0]

    def run(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            action(*arguments)
        return original(*arguments, **keywords)

    return run


def train_until(
    arguments: Sequence[str],
    action: str,
    moment: str,
    count: int,
    rank: int | None = None,
    pause: float = 0.0,
    command: Callable[[Sequence[str]], int] = run_train,
) -> int:
    """Run ``train.py``; on one rank (None: on all) something happens.

    Args:
        arguments: Of ``train.py``.
        action: One of ``ACTIONS``.
        moment: ``step``, ``write`` (half a checkpoint is written), ``rename``, ``evaluation`` or ``never``.
        count: Number of the step, write or evaluation, from 1.
        rank: Where it happens.
        pause: Seconds added to each step.
        command: Takes the arguments.
    """
    from mmengine.runner import ValLoop

    from thinktwice.checkpoint import file as checkpoint_file
    from thinktwice.core.loops import ResumableTrainLoop

    if pause:
        ResumableTrainLoop.run_iter = counted_pause(ResumableTrainLoop.run_iter, pause)
    if moment == 'never' or (rank is not None and os.environ.get('RANK', '0') != str(rank)):
        return command(arguments)
    act = ACTIONS[action]
    if moment == 'step':
        ResumableTrainLoop.run_iter = counted(act, count, ResumableTrainLoop.run_iter)
    elif moment == 'evaluation':
        ValLoop.run_iter = counted(act, count, ValLoop.run_iter)
    elif moment == 'rename':
        os.replace = counted(act, count, os.replace)
    else:

        def write_half(checkpoint: dict, file: Any) -> None:
            file.write(b'PK half a checkpoint')
            file.flush()
            act()

        torch_save = checkpoint_file.torch.save
        checkpoint_file.torch.save = counted(write_half, count, torch_save)
    return command(arguments)


def counted_pause(original: Callable, seconds: float) -> Callable:
    def run(*arguments: Any) -> Any:
        time.sleep(seconds)
        return original(*arguments)

    return run


def toy_arguments(work_dir: Path, *options: str, launcher: str = 'none', resume: bool = True) -> list[str]:
    """Arguments of an exact training run of the toy config that saves every two steps."""
    return [
        TOY_CONFIG,
        '--work-dir',
        str(work_dir),
        '--deterministic',
        '--launcher',
        launcher,
        *(['--resume-from', 'auto'] if resume else []),
        '--cfg-options',
        'default_hooks.checkpoint.interval_iters=2',
        'default_hooks.checkpoint.keep_last_iters=3',
        *options,
    ]


def final_state(work_dir: Path, name: str = 'epoch_3.pth') -> dict[str, Any]:
    """What a finished run has to have the same as any other: weights, optimizer, schedules, statistics."""
    checkpoint = torch.load(work_dir / name, weights_only=True)
    keys = (
        'state_dict',
        'optimizer',
        'param_schedulers',
        'hooks',
        'statistics_of_processes',
        'ema_state_dict',
    )
    return {key: checkpoint.get(key) for key in keys}
