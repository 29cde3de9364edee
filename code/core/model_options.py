"""Options of any model: memory format, activation checkpointing, compilation, sums over ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from thinktwice.core.rehearsal import rehearse_losses
from thinktwice.errors import ConfigError


def use_channels_last(model: nn.Module) -> None:
    """Convert the weights of 2-D convolutions to the channels-last memory format, in place.

    ``Module.to(memory_format=...)`` raises on 5-D weights, which sparse convolutions have.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def keep_gradient_strides(model: nn.Module) -> None:
    """Give gradients the strides of their parameters where a dimension is 1, as in kernels of 1x1.

    A layer whose input is in the channels-last format gives the gradient other strides there, for the same
    order in memory; DDP then copies slowly and warns.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(lambda gradient: gradient.flatten().view(gradient.shape))


def share_label_counts(model: nn.Module) -> None:
    """Make the losses divide by the number of labels on all ranks, in place (see ``DrivingLoss``).

    Gradients are averaged over ranks. If each rank divided by the number of its own labels,
    the weight of a label would depend on the rank it is on.
    """
    for module in model.modules():
        if hasattr(module, 'mean_over_ranks'):
            setattr(module, 'mean_over_ranks', mean_over_ranks)  # noqa: B010  nn.Module is typed too narrowly


def mean_over_ranks(count: Tensor) -> Tensor:
    """Mean of a scalar over all ranks. Collective."""
    all_reduce(count, op='sum')
    return count / get_world_size()


def submodules(model: nn.Module, names: str | Sequence[str], key: str) -> list[nn.Module]:
    """Submodules of a model by name.

    Args:
        model: The model.
        names: One or several dotted names; an empty name is the model itself.
        key: Config key of the names, for the message.

    Raises:
        ConfigError: The model has no such part.
    """
    found = []
    for name in [names] if isinstance(names, str) else names:
        try:
            found.append(model.get_submodule(name))
        except AttributeError:
            known = ', '.join(child for child, _ in model.named_children())
            raise ConfigError(f'{key}: the model has no part {name!r}; its parts are {known}') from None
    return found


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Do not update the running statistics of the BatchNorm layers of ``model`` inside the context."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    saved = [None if count is None else count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, old in zip(norms, momenta, counts, saved, strict=True):
            norm.momentum = momentum
            if count is not None and old is not None:
                count.copy_(old)


def check_recompute_and_compile(recompute: str | Sequence[str], compile_options: dict | bool) -> None:
    """Refuse to recompute within a compiled part, or to compile within a recomputed one.

    Raises:
        ConfigError: With the names of both.
    """
    names = compile_options.get('modules', '') if isinstance(compile_options, dict) else ''
    for compiled in [names] if isinstance(names, str) else names:
        for recomputed in [recompute] if isinstance(recompute, str) else recompute:
            shorter, longer = sorted((compiled, recomputed), key=len)
            if not shorter or f'{longer}.'.startswith(f'{shorter}.'):
                what = repr(compiled) if compiled else 'the whole model'
                raise ConfigError(
                    f'recompute={recomputed!r} overlaps with compile of {what}, which torch.compile does not '
                    'support: leave one of them out, or name other modules in compile.modules'
                )


def freeze_unused_parameters(model: BaseModel, batch: Mapping[str, Any]) -> list[str]:
    """Freeze the parameters that no loss depends on, in place.

    Distributed training waits for the gradient of every parameter that is not frozen. Which ones get none
    follows from the losses of a config, and is found by following the graph of one forward pass.

    Args:
        model: On its device; its mode and its buffers are as before afterwards.
        batch: A collated batch of the training set.

    Returns:
        Names of the parameters that were frozen.
    """
    loss = rehearse_losses(model, batch)  # in evaluation mode the graph has the same parameters
    used, seen, queue = set(), set(), [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, 'variable'):  # the end of a path: a parameter
            used.add(node.variable)
        queue += [following for following, _ in node.next_functions]
    unused = {name: p for name, p in model.named_parameters() if p.requires_grad and p not in used}
    for parameter in unused.values():
        parameter.requires_grad_(False)
    return list(unused)


def recompute_activations(model: nn.Module, names: str | Sequence[str]) -> None:
    """Checkpoint the activations of parts of a model, in place: the backward pass computes them again.

    Running statistics are updated once, as without it.

    Args:
        model: The model.
        names: Names of the parts, for example ``['img_encoder', 'decoder']``.

    Raises:
        ConfigError: The model has no such part.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(model)

    for module in submodules(model, names, 'recompute'):
        module.forward = _recomputed(module, module.forward, contexts)


def _recomputed(module: nn.Module, forward: Callable, contexts: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def compile_parts(model: nn.Module, options: dict | bool) -> None:
    """Compile a model or parts of it with ``torch.compile``, in place; the names of weights stay.

    A compiled part must not share a BatchNorm layer with a part that is not compiled, as
    the decoder shares the flatten head's: autograd would raise for statistics modified in place.

    Args:
        model: The model.
        options: True, or arguments of ``torch.compile``, and ``modules``: names of the parts.

    Raises:
        ConfigError: The model has no such part.
    """
    arguments = dict(options) if isinstance(options, dict) else {}
    for module in submodules(model, arguments.pop('modules', ''), 'compile.modules'):
        module.compile(**arguments)
