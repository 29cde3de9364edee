"""What the processes of a run do together, beside training."""

from collections.abc import Callable

import torch
from mmengine.dist import (
    all_gather,
    all_reduce,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thinktwice.errors import WriteError


def is_asked_by_any(is_asked: bool) -> bool:
    """Whether any process asks for something. Collective."""
    flag = torch.tensor([int(is_asked)])
    all_reduce(flag, op='max')
    return bool(flag.item())


def on_first_process(write: Callable[[], None]) -> None:
    """Run ``write`` on the first process; if it fails, all processes do. Collective.

    Raises:
        WriteError: ``write`` raised it. Without this the others would wait for a process that is gone.
    """
    problem: list[str | None] = [None]
    cause: WriteError | None = None
    if is_main_process():
        try:
            write()
        except WriteError as error:
            problem, cause = [str(error)], error
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise cause or WriteError(problem[0])


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that each process has of its own; SyncBatchNorm's are the same on all."""
    return [
        statistic
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]


def statistics_of_all(model: nn.Module) -> list[Tensor] | None:
    """BatchNorm statistics of every process, so that each can go on with its own. Collective.

    They are not exchanged in training, and layers that see a single value normalise by them.

    Returns:
        One 1-d tensor a process on the CPU, None for a single process.
    """
    statistics = _running_statistics(model)
    if get_world_size() == 1 or not statistics:
        return None
    own = torch.cat([statistic.flatten() for statistic in statistics])
    return [statistic.cpu() for statistic in all_gather(own)]


def load_statistics(model: nn.Module, saved: list[Tensor] | None) -> None:
    """Put back this process' own BatchNorm statistics, if the number of processes is what it was.

    Args:
        model: Has the statistics of the first process.
        saved: From ``statistics_of_all``.
    """
    statistics = _running_statistics(model)
    if saved is None or len(saved) != get_world_size() or not statistics:
        return
    own = saved[get_rank()]
    if own.numel() != sum(statistic.numel() for statistic in statistics):
        return
    sizes = [statistic.numel() for statistic in statistics]
    for statistic, values in zip(statistics, own.split(sizes), strict=True):
        statistic.copy_(values.view_as(statistic))
