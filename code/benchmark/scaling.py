"""How training scales with processes: time of a step and of loading, gradient bytes, overlap."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, get_world_size
from torch import distributed, nn

from thinktwice.errors import LaunchError


@dataclass
class ScalingFigures:
    """Seconds a step, each the median over steps of the slowest process.

    Attributes:
        processes: Number of processes.
        batch_size: Samples a process and step.
        step: A whole step: forward, backward, gradient exchange, update.
        step_alone: The same without exchanging gradients.
        exchange_alone: Exchanging gradients of the model's size while nothing else runs.
        loading: Waiting for a batch when nothing else runs.
        gradient_bytes: Bytes of all gradients, float32.
    """

    processes: int
    batch_size: int
    step: float
    step_alone: float
    exchange_alone: float
    loading: float
    gradient_bytes: int

    @property
    def bytes_sent(self) -> float:
        """Bytes that a process sends a step if the reduction is a ring: 2 (R - 1) / R of the gradients."""
        return 2 * (self.processes - 1) / self.processes * self.gradient_bytes

    @property
    def overlap(self) -> float:
        """Share of the exchange that is hidden behind the backward pass, 0 to 1; nan for one process."""
        if self.exchange_alone <= 0:
            return float('nan')
        hidden = self.exchange_alone - (self.step - self.step_alone)
        return min(max(hidden / self.exchange_alone, 0.0), 1.0)

    @property
    def samples_per_second(self) -> float:
        """Samples of all processes together, loading left out."""
        return self.processes * self.batch_size / self.step


def _median_of_slowest(times: list[float]) -> float:
    slowest = torch.tensor(times, dtype=torch.float64)
    if torch.cuda.is_available():
        slowest = slowest.cuda()
    all_reduce(slowest, op='max')
    return float(slowest.median())


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _time_steps(model: nn.Module, wrapper: Any, batches: Sequence[dict], exchange: bool) -> float:
    # without exchange the bare model trains alone
    trained: Any = model if exchange else getattr(model, 'module', model)
    times = []
    for batch in batches:
        _synchronize()
        barrier()
        start = time.perf_counter()
        trained.train_step(batch, wrapper)
        _synchronize()
        times.append(time.perf_counter() - start)
    return _median_of_slowest(times[1:])


def _time_exchange(model: nn.Module, repeats: int) -> float:
    if get_world_size() == 1:
        return 0.0
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients, times = torch.zeros(size, device=next(model.parameters()).device), []
    for _ in range(repeats + 1):
        _synchronize()
        barrier()
        start = time.perf_counter()
        # DDP's buckets of 25 MiB; one after the other, as they become ready
        for bucket in gradients.split(25 * 2**20 // 4):
            distributed.all_reduce(bucket)
        _synchronize()
        times.append(time.perf_counter() - start)
    return _median_of_slowest(times[1:])


def measure_process(cfg: Config, steps: int) -> ScalingFigures:
    """Measure this process' part of a training run. Collective.

    Args:
        cfg: A config from ``load_config`` with its ``work_dir`` and ``launcher`` set.
        steps: Steps to time, after one that is not.
    """
    from thinktwice.core.runner import DrivingRunner

    runner = DrivingRunner.from_cfg(cfg)
    runner.build_all()
    wrapper, loader = runner.optim_wrapper, runner.train_dataloader
    batches, waits = [], []
    iterator = iter(loader)
    for _ in range(min(steps + 1, len(loader))):
        start = time.perf_counter()
        batches.append(next(iterator))
        waits.append(time.perf_counter() - start)
    batches = [batches[index % len(batches)] for index in range(steps + 1)]
    loading = _median_of_slowest(waits)
    runner.model.train()
    return ScalingFigures(
        processes=get_world_size(),
        batch_size=loader.batch_size,
        step=_time_steps(runner.model, wrapper, batches, exchange=True),
        step_alone=_time_steps(runner.model, wrapper, batches, exchange=False),
        exchange_alone=_time_exchange(runner.model, steps),
        loading=loading,
        gradient_bytes=4 * sum(p.numel() for p in runner.model.parameters() if p.requires_grad),
    )


def measure_scaling(command: Sequence[str], world_sizes: Sequence[int], folder: Path) -> list[ScalingFigures]:
    """Run the measurement with each number of processes on this machine.

    Args:
        command: Program and arguments that measure one process and write its figures, with ``{out}``.
        world_sizes: Numbers of processes.
        folder: Where outputs go.

    Raises:
        LaunchError: A process failed; the message ends with its output.
    """
    figures = []
    for world_size in world_sizes:
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        out = folder / f'scaling_{world_size}.json'
        arguments = [sys.executable, *(word.format(out=out) for word in command)]
        logs = [folder / f'{world_size}_{rank}.log' for rank in range(world_size)]
        processes = []
        for rank, log in enumerate(logs):
            place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size, MASTER_PORT=port)
            environment = {**os.environ, 'MASTER_ADDR': '127.0.0.1', **{k: str(v) for k, v in place.items()}}
            with open(log, 'w') as file:
                processes.append(subprocess.Popen(arguments, env=environment, stdout=file, stderr=file))
        codes = [process.wait() for process in processes]
        for code, log in zip(codes, logs, strict=True):
            if code:
                last = '\n'.join(log.read_text().strip().splitlines()[-3:])
                raise LaunchError(f'measuring {world_size} processes failed: {last}')
        figures.append(ScalingFigures(**json.loads(out.read_text())))
    return figures


def write_figures(figures: ScalingFigures, path: Path) -> None:
    """Write the figures as JSON."""
    path.write_text(json.dumps(asdict(figures)))


def format_scaling(figures: Sequence[ScalingFigures]) -> str:
    """Table of the figures; the efficiency is against the first row."""
    header = (
        'processes',
        'step s',
        'alone s',
        'exchange s',
        'overlap',
        'loading s',
        'MB sent',
        'samples/s',
        'weak',
    )
    rows = [header]
    for row in figures:
        rows.append(
            (
                str(row.processes),
                f'{row.step:.3f}',
                f'{row.step_alone:.3f}',
                f'{row.exchange_alone:.3f}',
                f'{row.overlap:.0%}' if row.processes > 1 else '-',
                f'{row.loading:.3f}',
                f'{row.bytes_sent / 1e6:.1f}',
                f'{row.samples_per_second:.2f}',
                f'{figures[0].step / row.step:.0%}',
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return '\n'.join('  '.join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
