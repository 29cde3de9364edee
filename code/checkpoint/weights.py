"""Copying the weights of a checkpoint into a model, with a check that they are the model's."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from thinktwice.errors import CheckpointError

StateDict = Mapping[str, Tensor]


def load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], source: str, strict: bool = True, hint: str = ''
) -> None:
    """Copy the weights of a checkpoint into a model.

    Args:
        model: Without its wrapper for distributed training.
        checkpoint: From ``load_checkpoint``.
        source: Name of the checkpoint, for messages.
        strict: Refuse a checkpoint whose names, shapes and types are not the model's. If False, what fits
            is loaded and the rest is named in a warning.
        hint: How to load what fits; appended to the error where only names differ.

    Raises:
        CheckpointError: The weights are not the model's, no weight fits whatever ``strict`` says, or
            one cannot be copied.
    """
    own, weights = model.state_dict(), checkpoint['state_dict']
    if not any(name in own and own[name].shape == tensor.shape for name, tensor in weights.items()):
        raise CheckpointError(
            f'{source} has no weight in common with the model: it has {_first(weights)}, the model '
            f'{_first(own)}. Its top-level keys are {", ".join(map(str, checkpoint))}'
        )
    misshapen = _misshapen(own, weights)
    if strict:
        check_same_weights(own, weights, source, '' if misshapen else hint)
    elif differences := _describe_differences(own, weights):
        print_log(
            f'{source} does not fit the model: {differences}; the rest was loaded',
            logger='current',
            level=logging.WARNING,
        )
    try:
        fitting = {name: tensor for name, tensor in weights.items() if name not in misshapen}
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        names = re.findall(r'copying the parameter named "([^"]+)"', str(error))
        raise CheckpointError(
            f'{source}: {len(names)} weights cannot be copied into the model ({_listed(names)}). Save them '
            'again as dense tensors'
        ) from error
    not_finite = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if not_finite:
        print_log(
            f'{source} holds NaN or infinite values in {len(not_finite)} weights ({_listed(not_finite)}): '
            'it was saved by a run that diverged',
            logger='current',
            level=logging.WARNING,
        )


def check_same_weights(own: StateDict, weights: StateDict, source: str, hint: str = '') -> None:
    """Check that weights have the names, shapes and types of a model's.

    Args:
        own: State dict of the model.
        weights: Weights to check.
        source: Where they come from, for the message.
        hint: What to do; appended to the message.

    Raises:
        CheckpointError: They differ; tells how many and the first of each kind.
    """
    if differences := _describe_differences(own, weights):
        raise CheckpointError(
            f'{source} does not fit the model: {differences}. Is the config the one it was trained with? '
            f'{hint}'.rstrip()
        )


def _misshapen(own: StateDict, weights: StateDict) -> list[str]:
    """Names of weights of another shape, and of those that copying would round to whole numbers or bools."""

    def differ(first: Tensor, second: Tensor) -> bool:
        return first.shape != second.shape or first.is_floating_point() != second.is_floating_point()

    return sorted(name for name in own.keys() & weights.keys() if differ(own[name], weights[name]))


def _describe_differences(own: StateDict, weights: StateDict) -> str:
    differences = {
        'missing': sorted(own.keys() - weights.keys()),
        'unexpected': sorted(weights.keys() - own.keys()),
        'of another shape or type': _misshapen(own, weights),
    }
    return '; '.join(
        f'{len(names)} {kind} ({_listed(names)})' for kind, names in differences.items() if names
    )


def _listed(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def _first(weights: StateDict) -> str:
    name, tensor = next(iter(weights.items()))
    return f'{name} {list(tensor.shape)}'
