"""Collective operations beside those of training."""

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

from thinktwice.errors import RankError, UserError


def is_asked_by_any(is_asked: bool) -> bool:
    """Whether any rank asks for something. Collective."""
    flag = torch.tensor([int(is_asked)])
    all_reduce(flag, op='max')
    return bool(flag.item())


def on_rank_0(function: Callable[[], None]) -> None:
    """Call ``function`` on rank 0; if it fails there, all ranks raise. Collective.

    Raises:
        RankError: On the other ranks, which would otherwise wait for rank 0 in their next collective. Rank 0
            raises the error itself.
    """
    failure: list[str | None] = [None]
    cause: BaseException | None = None
    if is_main_process():
        try:
            function()
        except BaseException as error:
            cause = error
            failure = [str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}']
    broadcast_object_list(failure)
    if cause is not None:
        raise cause
    if failure[0] is not None:
        raise RankError(f'rank 0 has failed: {failure[0]}')


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that differ between ranks; those of SyncBatchNorm do not."""
    return [
        statistic
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]


def statistics_of_all(model: nn.Module) -> list[Tensor] | None:
    """BatchNorm statistics of every rank, so that each can resume with its own. Collective.

    They are not exchanged in training, and layers that see a single value normalize by them.

    Returns:
        One 1-d tensor per rank, on the CPU; None if the world size is 1.
    """
    statistics = _running_statistics(model)
    if get_world_size() == 1 or not statistics:
        return None
    own = torch.cat([statistic.flatten() for statistic in statistics])
    return [statistic.cpu() for statistic in all_gather(own)]


def load_statistics(model: nn.Module, saved: list[Tensor] | None) -> None:
    """Restore the BatchNorm statistics of this rank, if the world size is what it was.

    Args:
        model: Has the statistics of rank 0.
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
