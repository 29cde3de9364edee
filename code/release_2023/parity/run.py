"""Fill the reference model with given weights and run it on an official batch."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from thinktwice.release_2023.checkpoint.conversion import model_shapes, official_to_ours
from thinktwice.release_2023.checkpoint.names import OFFICIAL_NAMES, official_entries
from thinktwice.release_2023.parity.batch import from_official_batch
from thinktwice.release_2023.parity.compare import collect


def fill_model(
    model: nn.Module, fill_weights: Callable[[Mapping[str, Sequence[int]]], Mapping[str, Tensor]]
) -> nn.Module:
    """Load official weights made by a function into a model.

    Args:
        model: Usually that of ``configs/thinktwice_reference.py``.
        fill_weights: Takes official names with shapes, returns official names with tensors;
            entries that the config determines may be missing.

    Returns:
        The model in evaluation mode with all parameters and buffers loaded.

    Raises:
        CheckpointError: A weight of the model is missing, or a weight is not the model's.
    """
    weights = OrderedDict(fill_weights(official_entries()))
    converted = official_to_ours(weights, model_shapes(model))
    converted.report.raise_if_bad()
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def run_batch(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inference, losses and gradients of one official batch, under the names of a stored file."""
    device = next(model.parameters()).device
    inputs, targets = from_official_batch(batch)
    return collect(model, _to(inputs, device), _to(targets, device), OFFICIAL_NAMES)


def _to(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return [_to(item, device) for item in value]
