"""Collate samples into a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from thinktwice.registry import FUNCTIONS

# Fields whose first axis differs between samples.
LIST_KEYS = frozenset({'points'})


@FUNCTIONS.register_module()
def collate_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples along a new first axis B.

    Point clouds stay a list of B tensors: padding would add points at the origin whose number
    depends on the other samples of the batch. `metas` is a list of B dictionaries; lists of
    tensors (`grid_feature`) are stacked element by element.

    Raises:
        ValueError: if fields or sizes differ between samples; the message names the field.
    """
    groups = set(samples[0])
    if any(set(sample) != groups for sample in samples):
        raise ValueError('collate_samples: some samples of the batch have targets and some have none')
    batch: dict[str, Any] = {'inputs': _collate_group('inputs', samples)}
    if 'targets' in groups:
        batch['targets'] = _collate_group('targets', samples)
    batch['metas'] = [sample['metas'] for sample in samples]
    return batch


def take_sample(batch: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One sample of a batch of :func:`collate_samples`.

    Args:
        batch: The batch; a group may be missing.
        index: Position of the sample in the batch.
    """
    groups = {key: batch[key] for key in ('inputs', 'targets') if batch.get(key) is not None}
    sample: dict[str, Any] = {
        group: {key: _take_field(key, value, index) for key, value in fields.items()}
        for group, fields in groups.items()
    }
    return {**sample, 'metas': batch['metas'][index]}


def _take_field(key: str, value: Any, index: int) -> Any:
    if isinstance(value, list) and key not in LIST_KEYS:
        return [level[index] for level in value]
    return value[index]


def _collate_group(group: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = list(samples[0][group])
    if any(set(sample[group]) != set(keys) for sample in samples):
        raise ValueError(f'collate_samples: the samples of the batch have different {group}')
    return {key: _collate_field(f'{group}.{key}', [s[group][key] for s in samples]) for key in keys}


def _collate_field(name: str, values: list[Any]) -> Any:
    if name.rsplit('.', 1)[1] in LIST_KEYS:
        return values
    if isinstance(values[0], list):
        return [_collate_field(name, list(level)) for level in zip(*values, strict=True)]
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(f'collate_samples: {name} has different sizes in one batch: {sorted(shapes)}')
    stacked: torch.Tensor = default_collate(values)
    return stacked
