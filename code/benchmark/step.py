"""A training step on one device: time, arithmetic and memory, per phase and module.

The floor is the time of the same convolutions and matrix products alone, called again one by one with
operands of the same shapes and strides. What a step takes beyond it is spent on everything else.
"""

import resource
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry

from thinktwice.core.runner import DrivingRunner
from thinktwice.tables import format_table

PHASES = ('forward', 'backward', 'optimizer')
TABLE_DEPTH = 2  # modules of the table: parts of the model and their parts
REPEATS = 3  # calls of which the fastest counts for the floor


@dataclass
class StepFigures:
    """Times in seconds. On the CPU they are CPU time of the calling thread, so other processes don't count.

    Attributes:
        device: Name of the GPU, or the number of CPU threads.
        batch_size: Samples of a step.
        phases: Median time of forward, backward and optimizer.
        floor: Time of the convolutions and matrix products of a step alone.
        flops: Floating-point operations of these.
        operations: Operators called in a step: kernel launches on a GPU, at least.
        peak_bytes: Largest memory of the process, or of the GPU.
        saved_bytes: Activations that the forward pass saves for the backward pass.
        modules: For each module its own time, forward and backward, and floating-point operations; ``''`` is
            what belongs to none.
    """

    device: str
    batch_size: int
    phases: dict[str, float]
    floor: float
    flops: float
    operations: int
    peak_bytes: int
    saved_bytes: int
    modules: dict[str, tuple[float, float]]

    @property
    def seconds(self) -> float:
        """Time of a step."""
        return sum(self.phases.values())


class Clock:
    """Reads the time on the device of the model."""

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()

    def now(self) -> float:
        """Seconds, after all that was launched has finished."""
        if not self.on_gpu:
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def time_of(self, function: Callable[[], Any]) -> float:
        """Seconds that a call takes."""
        start = self.now()
        function()
        return self.now() - start


class StepRecorder(TorchDispatchMode):
    """Times each operator of a step and notes the module that it belongs to.

    An operator of the backward pass belongs to the module whose forward pass created its graph node: the
    nodes are numbered in the order of their creation.
    """

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.flops: defaultdict[str, float] = defaultdict(float)
        self.operations = 0
        self.products: Counter[Any] = Counter()
        self._calls: dict[Any, tuple[Any, Any, Any]] = {}
        self._inside = ['']
        self._starts, self._modules = [0], ['']
        self._handles = []
        for name, module in model.named_modules():
            if name:
                self._handles.append(
                    module.register_forward_pre_hook(lambda *_, name=name: self._enter(name))
                )
                self._handles.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))

    def _enter(self, name: str) -> None:
        self._inside.append(name)
        self._mark()

    def _leave(self) -> None:
        self._inside.pop()
        self._mark()

    def _mark(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._modules.append(self._inside[-1])

    def _module(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self._inside[-1]
        if 'AccumulateGrad' in node.name():
            return ''
        return self._modules[bisect_right(self._starts, node._sequence_nr()) - 1]

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        module = self._module()
        start = self.clock.now()
        result = operator(*args, **kwargs)
        self.seconds[module] += self.clock.now() - start
        self.operations += 1
        count_flops = flop_registry.get(operator._overloadpacket)
        if count_flops is not None:
            self.flops[module] += count_flops(*args, **kwargs, out_val=result)
            call = tree_map_only(torch.Tensor, _Operand.of, (args, kwargs))
            self.products[str((operator, call))] += 1
            self._calls[str((operator, call))] = (operator, *call)
        return result

    def floor(self) -> float:
        """Time of all convolutions and matrix products, each called again alone."""
        total = 0.0
        for key, count in self.products.items():
            operator, args, kwargs = self._calls[key]
            args, kwargs = (
                tree_map(lambda x: x.make() if isinstance(x, _Operand) else x, part)
                for part in (args, kwargs)
            )
            call = partial(operator, *args, **kwargs)
            total += count * min(self.clock.time_of(call) for _ in range(REPEATS))
        return total

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()


@dataclass(frozen=True)
class _Operand:
    """Layout of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> '_Operand':
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def make(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).fill_(0.5)


def measure_step(cfg: Config, steps: int) -> StepFigures:
    """Measure training steps on one device, without ``torch.compile``.

    Args:
        cfg: A resolved config with ``work_dir`` and ``launcher`` set.
        steps: Steps to time, after one to warm up.
    """
    cfg.compile = False
    runner = DrivingRunner.from_cfg(cfg)
    runner.build_all()
    model, wrapper, loader = runner.bare_model, runner.optim_wrapper, runner.train_dataloader
    model.train()
    batch, clock = next(iter(loader)), Clock()

    def run() -> dict[str, float]:
        return _run_step(model, wrapper, batch, clock)

    with _count_saved(model) as saved:
        run()
    if clock.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [run() for _ in range(steps)]
    peak = torch.cuda.max_memory_allocated() if clock.on_gpu else _peak_of_process()
    recorder = StepRecorder(model, clock)
    with recorder:
        run()
    recorder.remove()
    return StepFigures(
        device=torch.cuda.get_device_name() if clock.on_gpu else f'CPU, threads: {torch.get_num_threads()}',
        batch_size=loader.batch_size,
        phases={phase: median(row[phase] for row in times) for phase in PHASES},
        floor=recorder.floor(),
        flops=sum(recorder.flops.values()),
        operations=recorder.operations,
        peak_bytes=peak,
        saved_bytes=sum(saved.values()),
        modules={name: (spent, recorder.flops[name]) for name, spent in recorder.seconds.items()},
    )


def _run_step(model: BaseModel, wrapper: Any, batch: dict[str, Any], clock: Clock) -> dict[str, float]:
    """Train on a batch; return the time of each phase."""
    times = [clock.now()]
    with wrapper.optim_context(model):
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    times.append(clock.now())
    wrapper.backward(loss)
    times.append(clock.now())
    wrapper.step()
    wrapper.zero_grad()
    times.append(clock.now())
    return {phase: times[i + 1] - times[i] for i, phase in enumerate(PHASES)}


@contextmanager
def _count_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that is saved for the backward pass, without those of the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_part(modules: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Sum the figures of modules over the parts of the model and their parts, the longest time first."""
    parts: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for name, (seconds, flops) in modules.items():
        part = '.'.join(name.split('.')[:TABLE_DEPTH])
        parts[part] = (parts[part][0] + seconds, parts[part][1] + flops)
    return dict(sorted(parts.items(), key=lambda item: -item[1][0]))


def format_step(figures: StepFigures) -> str:
    """Format the figures of a step as text with a table of its modules."""
    phases = ', '.join(f'{name} {spent * 1e3:.0f} ms' for name, spent in figures.phases.items())
    total = sum(spent for spent, _ in figures.modules.values())
    rows = [
        (name or '(no module)', f'{spent * 1e3:.1f}', f'{spent / total:.1%}', f'{flops / 1e9:.2f}')
        for name, (spent, flops) in by_part(figures.modules).items()
    ]
    return '\n'.join(
        (
            f'{figures.device}, batch size {figures.batch_size}: a step takes {figures.seconds * 1e3:.0f} ms '
            f'({phases})',
            f'floor {figures.floor * 1e3:.0f} ms for {figures.flops / 1e9:.1f} GFLOP of convolutions and '
            f'matrix products ({figures.flops / figures.floor / 1e9:.0f} GFLOP/s): '
            f'a step takes {figures.seconds / figures.floor:.2f} times that',
            f'{figures.operations} operators; peak memory {figures.peak_bytes / 2**30:.2f} GiB, of which '
            f'{figures.saved_bytes / 2**30:.2f} GiB are saved for the backward pass',
            '',
            format_table(('module', 'ms', 'share', 'GFLOP'), rows),
        )
    )


def compare_steps(figures: Sequence[StepFigures]) -> str:
    """Format several measurements of the same model as a table; the ratio is the last time by the first."""

    def row(name: str, times: Sequence[float]) -> tuple[str, ...]:
        ratio = f'{times[-1] / times[0]:.2f}' if times[0] else '-'
        return (name, *(f'{spent * 1e3:.1f}' for spent in times), ratio)

    parts = [by_part(one.modules) for one in figures]
    names = dict.fromkeys(name for one in parts for name in one)
    rows = [
        row('step', [one.seconds for one in figures]),
        *(row(phase, [one.phases[phase] for one in figures]) for phase in PHASES),
        row('floor', [one.floor for one in figures]),
        *(row(name or '(no module)', [one.get(name, (0.0, 0.0))[0] for one in parts]) for name in names),
    ]
    header = ('part', *(f'{number + 1}, ms' for number in range(len(figures))), 'ratio')
    return format_table(header, rows)
