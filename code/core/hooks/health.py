"""Whether the layers of a model carry what differs between samples."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from torch import Tensor, nn

from thinktwice.config.keys import Count
from thinktwice.registry import HOOKS
from thinktwice.tables import format_table

LAYERS = (
    *('img_encoder', 'lidar_encoder', 'bev_fusion', 'flatten_head.blocks.*', 'flatten_head'),
    *('scene_encoder', 'measurement_encoder', 'decoder.coarse_head', 'decoder.layers.*.prediction_module'),
    *('decoder.layers.*.camera_look', 'decoder.layers.*.lidar_look', 'decoder.layers.*'),
)
"""Branches of ``EncoderDecoder``, in the order of computation."""


@HOOKS.register_module()
class HealthHook(Hook):
    """Log at each evaluation how much each layer varies over the samples, and the size of its gradient.

    Three values per layer, ``val/health/<layer>/<value>``:

    - ``variation``: standard deviation over all samples of the evaluation, averaged over the units,
      divided by the mean magnitude. A unit is one element of the output for one sample. A layer that
      responds to its input has 0.3 to 1.5; one with the same output for all samples has 0.
    - ``dead``: share of the units that are zero for every sample.
    - ``gradient``: norm of the gradient of all its parameters, after clipping; the mean over every
      ``interval``-th update since the last evaluation.

    If an output has several tensors, the first one is measured. If a layer is called several times per batch,
    as the flatten head is for observed and for predicted maps, the later calls are named ``<layer>_2`` and
    so on. Inside a compiled module only gradients are measured.

    The cost is four sums over each output in evaluation. In training nothing waits for the device.

    Args:
        layers: Names of modules; ``*`` stands for one part of a dotted name. Names that the model does
            not have are ignored.
        min_variation: A lower variation gives a warning. Where a training collapsed, successive layers had
            0.75, 0.16, 0.035, 0.005 and 0.0005; where it did not, all had more than 0.5. The default
            is a tenth of that.
        max_dead: A larger share of dead units gives a warning. With ReLU, half of the units are zero
            for one sample, but few are for all.
        interval: Updates between two measurements of the gradient.
    """

    def __init__(
        self,
        layers: Sequence[str] = LAYERS,
        min_variation: float = 0.05,
        max_dead: float = 0.5,
        interval: Count = 20,
    ) -> None:
        self.layers = tuple(layers)
        self.min_variation = min_variation
        self.max_dead = max_dead
        self.interval = interval
        self._sums: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._num_samples = self._batch_size = 0
        self._forward_hooks: list[Any] = []
        self._gradients: GradientNorms | None = None

    def before_train(self, runner: Any) -> None:
        """Start to measure gradients."""
        branches = find_layers(runner.bare_model, self.layers)
        self._gradients = GradientNorms(branches, runner.optim_wrapper.optimizer, self.interval)

    def clean_up(self, runner: Any) -> None:
        """Stop measuring, after an error too."""
        self._remove_forward_hooks()
        if self._gradients is not None:
            self._gradients.remove()
            self._gradients = None

    def _before_epoch(self, runner: Any, mode: str = 'train') -> None:
        if mode == 'train':
            return
        self._remove_forward_hooks()
        self._sums, self._num_samples = {}, 0
        self._forward_hooks = [
            module.register_forward_hook(partial(self._add, name))
            for name, module in find_layers(runner.bare_model, self.layers).items()
        ]

    def _before_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        self._calls = {}
        self._batch_size = len((data_batch or {}).get('metas') or [])
        self._num_samples += self._batch_size

    def _add(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Add the output of a layer to its sums; a forward hook."""
        self._calls[name] = call = self._calls.get(name, 0) + 1
        values = next(tensors_of(output), None)
        if values is None or not self._batch_size or len(values) % self._batch_size:
            return  # the first axis is not one of samples, or of samples times cameras or steps
        key = name if call == 1 else f'{name}_{call}'
        sums = unit_sums(values.reshape(self._batch_size, -1))
        self._sums[key] = self._sums[key] + sums if key in self._sums else sums

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the values of all layers to the metrics and log them; warn about dead layers. Collective."""
        self._report(runner, 'val', metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """See ``after_val_epoch``. Collective."""
        self._report(runner, 'test', metrics)

    def _report(self, runner: Any, mode: str, metrics: dict[str, float] | None) -> None:
        self._remove_forward_hooks()
        health = summarize(self._sums, self._num_samples)
        self._sums = {}
        if self._gradients is not None:
            for name, norm in self._gradients.means().items():
                health.setdefault(name, {})['gradient'] = norm
        flat = {
            f'health/{name}/{key}': value for name, values in health.items() for key, value in values.items()
        }
        for name, value in flat.items():  # the metrics have been copied to the message hub before
            runner.message_hub.update_scalar(f'{mode}/{name}', value)
        if metrics is not None:
            metrics.update(flat)
        if health:
            runner.logger.info(f'health of the layers:\n{health_table(health)}')
        if found := list(self.complaints(health)):
            runner.logger.warning(f'some layers look dead: {"; ".join(found)}')

    def complaints(self, health: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        """Describe each layer that looks dead."""
        for name, values in health.items():
            if values.get('variation', 1.0) < self.min_variation:
                yield (
                    f'the output of {name} is nearly the same for all samples (it varies by '
                    f'{values["variation"]:.2g} of its magnitude)'
                )
            if values.get('dead', 0.0) > self.max_dead:
                yield f'{values["dead"]:.0%} of the outputs of {name} are zero for every sample'
            if values.get('gradient') == 0.0:
                yield f'{name} gets no gradient'

    def _remove_forward_hooks(self) -> None:
        for handle in self._forward_hooks:
            handle.remove()
        self._forward_hooks = []


class GradientNorms:
    """Mean gradient norm of modules over the updates of an optimizer, without waiting for the device.

    Args:
        branches: Modules by name; those without trained parameters are left out.
        optimizer: Its updates are observed.
        interval: Updates between two measurements.
    """

    def __init__(
        self, branches: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, interval: int
    ) -> None:
        trained = {
            name: [parameter for parameter in module.parameters() if parameter.requires_grad]
            for name, module in branches.items()
        }
        self._parameters = {name: parameters for name, parameters in trained.items() if parameters}
        self._interval = interval
        self._updates = self._count = 0
        self._sum: Tensor | None = None
        self._handle = optimizer.register_step_pre_hook(self._measure)

    def _measure(self, *unused: Any) -> None:
        if self._updates % self._interval == 0 and self._parameters:
            norms = torch.stack([_gradient_norm(parameters) for parameters in self._parameters.values()])
            self._sum = norms if self._sum is None else self._sum + norms
            self._count += 1
        self._updates += 1

    def means(self) -> dict[str, float]:
        """Mean norms since the last call, by name."""
        if self._sum is None:
            return {}
        means = (self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        return dict(zip(self._parameters, means, strict=True))

    def remove(self) -> None:
        """Stop observing the optimizer."""
        self._handle.remove()


def _gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm of all gradients together, 0 without any."""
    found = list(parameters)
    gradients = [parameter.grad for parameter in found if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).to(found[0].device)


def find_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose name matches a pattern, in the order of the patterns."""
    modules = dict(model.named_modules())
    expressions = [re.escape(pattern).replace(r'\*', r'[^.]+') for pattern in patterns]
    return {
        name: module
        for expression in expressions
        for name, module in modules.items()
        if re.fullmatch(expression, name)
    }


def tensors_of(output: Any) -> Iterator[Tensor]:
    """All tensors of floating-point numbers inside the output of a module."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
        return
    parts: Iterable[Any] = ()
    if is_dataclass(output):
        parts = (getattr(output, field.name) for field in fields(output))
    elif isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, (list, tuple)):
        parts = output
    for part in parts:
        yield from tensors_of(part)


def unit_sums(values: Tensor) -> Tensor:
    """Sums over samples: values, squares, magnitudes and how many are not zero.

    Args:
        values: (B, units).

    Returns:
        (4, units) float64.
    """
    values = values.detach().double()
    return torch.stack(
        [part.sum(dim=0) for part in (values, values.square(), values.abs(), values.ne(0).double())]
    )


def summarize(sums: Mapping[str, Tensor], num_samples: int) -> dict[str, dict[str, float]]:
    """Variation and dead share of each layer. Collective.

    Args:
        sums: Of this rank, from :func:`unit_sums`, by layer.
        num_samples: Samples of this rank.
    """
    if not sums:
        return {}
    names, parts = list(sums), list(sums.values())
    counts = parts[0].new_tensor([num_samples])
    flat = torch.cat([counts, *(part.flatten() for part in parts)])
    all_reduce(flat, op='sum')
    count, flat = flat[0], flat[1:]
    if count < 2:
        return {}  # one sample does not vary
    values = []
    for part in flat.split([part.numel() for part in parts]):
        total, square, magnitude, nonzero = part.view(4, -1) / count
        deviation = (square - total.square()).clamp(min=0).sqrt().mean()
        values += [deviation / magnitude.mean().clamp(min=1e-30), nonzero.eq(0).double().mean()]
    pairs = torch.stack(values).view(-1, 2).tolist()
    return {name: dict(variation=pair[0], dead=pair[1]) for name, pair in zip(names, pairs, strict=True)}


def health_table(health: Mapping[str, Mapping[str, float]]) -> str:
    """Format the values of each layer."""
    formats = {'variation': '.3g', 'dead': '.0%', 'gradient': '.3g'}
    rows = [
        (name, *(f'{values[key]:{style}}' if key in values else '-' for key, style in formats.items()))
        for name, values in health.items()
    ]
    return format_table(('layer', *formats), rows)
