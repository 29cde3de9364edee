"""How training scales with the world size: time of a step, of gradient exchange, of loading."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, get_world_size
from torch import nn

from thinktwice.core.runner import DrivingRunner
from thinktwice.tables import format_table


@dataclass
class ScalingFigures:
    """Times of one world size in seconds, each the median over steps on the slowest rank.

    Attributes:
        world_size: Number of ranks.
        batch_size: Samples per rank and step.
        step: A whole step: forward, backward, gradient exchange, update.
        step_without_exchange: The same without gradient exchange.
        exchange: Reducing a tensor of the gradients' size while nothing else runs.
        loading: Waiting for a batch while nothing else runs.
    """

    world_size: int
    batch_size: int
    step: float
    step_without_exchange: float
    exchange: float
    loading: float

    @property
    def overlap(self) -> float:
        """Fraction of the exchange that is hidden behind the backward pass; NaN for one rank."""
        if self.exchange <= 0:
            return float('nan')
        hidden = self.exchange - (self.step - self.step_without_exchange)
        return min(max(hidden / self.exchange, 0.0), 1.0)

    @property
    def samples_per_second(self) -> float:
        """Samples/s of all ranks together, without loading."""
        return self.world_size * self.batch_size / self.step


def measure_scaling(cfg: Config, steps: int) -> ScalingFigures:
    """Measure training with the current world size. Collective.

    Args:
        cfg: A resolved config with ``work_dir`` and ``launcher`` set.
        steps: Steps to time, after one to warm up.
    """
    runner = DrivingRunner.from_cfg(cfg)
    runner.build_all()
    model, wrapper, loader = runner.model, runner.optim_wrapper, runner.train_dataloader
    model.train()
    batches: list[dict] = []
    iterator = iter(loader)
    loading = _time([lambda: batches.append(next(iterator))] * min(steps + 1, len(loader)))
    batches = [batches[index % len(batches)] for index in range(steps + 1)]
    return ScalingFigures(
        world_size=get_world_size(),
        batch_size=loader.batch_size,
        step=_time(partial(model.train_step, batch, wrapper) for batch in batches),
        step_without_exchange=_time(partial(_train_alone, runner, batch) for batch in batches),
        exchange=_time_exchange(model, steps) if get_world_size() > 1 else 0.0,
        loading=loading,
    )


def _train_alone(runner: DrivingRunner, batch: dict) -> None:
    runner.bare_model.train_step(batch, runner.optim_wrapper)  # type: ignore[operator]


def _time_exchange(model: nn.Module, repeats: int) -> float:
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients = torch.zeros(size, device=next(model.parameters()).device)
    buckets = gradients.split(25 * 2**20 // 4)  # DDP's buckets of 25 MiB

    def exchange() -> None:
        for bucket in buckets:
            all_reduce(bucket)

    return _time([exchange] * (repeats + 1))


def _time(actions: Iterable[Callable[[], object]]) -> float:
    """Median time of actions on the slowest rank, without the first one, which warms up. Collective."""
    times = []
    for action in actions:
        _synchronize()
        barrier()
        start = time.perf_counter()
        action()
        _synchronize()
        times.append(time.perf_counter() - start)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    slowest = torch.tensor(times[1:] or times, dtype=torch.float64, device=device)
    all_reduce(slowest, op='max')
    return float(slowest.median())


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def format_figures(figures: Sequence[ScalingFigures]) -> str:
    """Format figures as a table; the efficiency is the first row's step time divided by each row's."""
    return format_table(
        (
            'ranks',
            'step, ms',
            'without exchange, ms',
            'exchange, ms',
            'overlap',
            'loading, ms',
            'samples/s',
            'efficiency',
        ),
        [
            (
                str(row.world_size),
                f'{row.step * 1e3:.1f}',
                f'{row.step_without_exchange * 1e3:.1f}',
                f'{row.exchange * 1e3:.1f}' if row.world_size > 1 else '-',
                f'{row.overlap:.0%}' if row.world_size > 1 else '-',
                f'{row.loading * 1e3:.1f}',
                f'{row.samples_per_second:.2f}',
                f'{figures[0].step / row.step:.0%}',
            )
            for row in figures
        ],
    )
