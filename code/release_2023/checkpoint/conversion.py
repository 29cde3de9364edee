"""Translate weights between the official 2023 checkpoint and a model of this framework."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from thinktwice.release_2023.checkpoint.layouts import (
    SPCONV_1,
    SPCONV_2,
    SPCONV_2_VERSION,
    detect_layout,
    spconv2_shape,
    to_spconv1,
    to_spconv2,
)
from thinktwice.release_2023.checkpoint.names import DERIVED_ENTRIES, OFFICIAL_NAMES, SPARSE_PREFIX

Shape = tuple[int, ...]
COUNTER_SUFFIX = '.num_batches_tracked'
FINEST_STRIDE = 4  # pixels of the image a cell of the neck's finest level


@dataclass
class ConversionReport:
    """What did not fit between a file and a model.

    Attributes:
        missing: Entries of the target that the file does not fill, with shape.
        unexpected: Entries of the file that no rule explains, with shape.
        misshapen: Entries with the target's shape and the file's.
        unused: Entries of the file that are known and have no place in the target.
        filled_in: Batch counters that the file lacks and that start from 0.
    """

    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    filled_in: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every entry of file and target found its counterpart."""
        return not (self.missing or self.unexpected or self.misshapen)

    def table(self) -> str:
        """One line an entry that does not fit, under a heading a kind."""
        lines: list[str] = []
        for title, entries in (('missing', self.missing), ('unexpected', self.unexpected)):
            lines += [f'{title}: {len(entries)}'] if entries else []
            lines += [f'  {name}  {list(shape)}' for name, shape in entries.items()]
        if self.misshapen:
            lines.append(f'misshapen: {len(self.misshapen)}')
        for name, (wanted, found) in self.misshapen.items():
            lines.append(f'  {name}  expected {list(wanted)}, file has {list(found)}')
        return '\n'.join(lines)

    def raise_if_bad(self) -> None:
        """Raise a ValueError with the table if anything does not fit."""
        if not self.is_complete:
            raise ValueError(f'the weights do not fit the model\n{self.table()}')


@dataclass
class Conversion:
    """Translated weights with what did not fit.

    Attributes:
        weights: Entries of the target by name.
        extra: Entries of the source that the target has no place for.
        versions: Module versions to store beside the weights.
        report: What did not fit.
        layout: Storage order of sparse kernels that the source has.
    """

    weights: 'OrderedDict[str, Tensor]'
    extra: dict[str, Tensor]
    versions: dict[str, int]
    report: ConversionReport
    layout: str


def build_model(config: Mapping[str, Any], device: str = 'cpu') -> nn.Module:
    """Build the ``model`` of a config without initialising or downloading weights.

    Args:
        config: A config with the key ``model``.
        device: ``'meta'`` gives names and shapes without memory.
    """
    # model code pulls in the detection libraries, seconds that reading a file should not cost
    from thinktwice.registry import MODELS, SCOPE

    with DefaultScope.overwrite_default_scope(SCOPE), torch.device(device):
        return MODELS.build(config['model'])


def derived_entries(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The official entries that follow from a config: grid and frustum.

    Args:
        config: A resolved config with ``image_size`` (H, W) and ``model``.

    Returns:
        Official name to tensor; empty for a model whose geometry is not that of 2023.
    """
    from thinktwice.registry import MODELS, SCOPE

    encoder = config['model']['img_encoder']
    with DefaultScope.overwrite_default_scope(SCOPE):
        view_transform = MODELS.build(encoder['view_transform'])
    if not hasattr(view_transform, 'official_buffers'):
        return {}
    height, width = config['image_size']
    stride = FINEST_STRIDE * 2 ** encoder['lift_level']
    buffers = view_transform.official_buffers((height, width), (height // stride, width // stride))
    return {f'img_encoder.{name}': buffer for name, buffer in buffers.items()}


def model_shapes(model: nn.Module) -> dict[str, Shape]:
    """Name to shape of every entry of a model's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def official_to_ours(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    versions: Mapping[str, int] | None = None,
) -> Conversion:
    """Translate official weights to a model's names and layouts.

    Args:
        weights: Official name to tensor; sparse kernels in either layout.
        shapes: Our name to shape, of the model that takes the weights.
        versions: Module name to version, from the state dict's metadata.

    Returns:
        The translation. ``weights`` holds what fits, in the model's order.

    Raises:
        ValueError: If the sparse kernels mix two layouts.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    layout = detect_layout(*_sparse_kernels(weights, wanted, versions or {}))
    report = ConversionReport()
    found: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for official, tensor in weights.items():
        ours = OFFICIAL_NAMES.to_ours(official)
        if official in DERIVED_ENTRIES:
            extra[official] = tensor
            report.unused[official] = 'follows from the config'
        elif ours is None:
            report.unexpected[official] = tuple(tensor.shape)
        elif ours not in wanted:
            extra[official] = tensor
            report.unused[official] = 'has no counterpart in this model'
        else:
            kernel = layout == SPCONV_2 and _is_sparse_kernel(official, tensor)
            found[ours] = to_spconv1(tensor) if kernel else tensor
    ordered = _arrange(found, wanted, report)
    return Conversion(ordered, extra, {}, report, layout)


def ours_to_official(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    extra: Mapping[str, Tensor] | None = None,
) -> Conversion:
    """Translate a model's weights to the official names and layouts.

    Args:
        weights: Our name to tensor.
        shapes: Our name to shape, of the model that the weights belong to.
        extra: Official entries kept from an earlier conversion.

    Returns:
        The translation, sparse kernels in spconv 2 order with the version that keeps
        the official loader from reordering them.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    report = ConversionReport()
    known = {name: tensor for name, tensor in weights.items() if name in wanted}
    report.unexpected = {name: tuple(t.shape) for name, t in weights.items() if name not in wanted}
    ordered = _arrange(known, wanted, report)
    official: OrderedDict[str, Tensor] = OrderedDict(extra or {})
    versions: dict[str, int] = {}
    for ours, tensor in ordered.items():
        name = OFFICIAL_NAMES.to_official(ours)
        if name is None:
            report.unexpected[ours] = tuple(tensor.shape)
            continue
        if _is_sparse_kernel(name, tensor):
            tensor = to_spconv2(tensor)
            versions[name.removesuffix('.weight')] = SPCONV_2_VERSION
        official[name] = tensor
    return Conversion(official, {}, versions, report, SPCONV_1)


def _arrange(
    found: Mapping[str, Tensor], wanted: Mapping[str, Shape], report: ConversionReport
) -> 'OrderedDict[str, Tensor]':
    """Order entries like the model and note which are missing or misshapen."""
    arranged: OrderedDict[str, Tensor] = OrderedDict()
    for name, shape in wanted.items():
        if name not in found:
            if name.endswith(COUNTER_SUFFIX):
                arranged[name] = torch.zeros(shape, dtype=torch.int64)
                report.filled_in.append(name)
            else:
                report.missing[name] = shape
        elif tuple(found[name].shape) != shape:
            report.misshapen[name] = (shape, tuple(found[name].shape))
        else:
            arranged[name] = found[name]
    return arranged


def _is_sparse_kernel(official: str, tensor: Tensor) -> bool:
    return official.startswith(SPARSE_PREFIX) and tensor.dim() == 5


def _sparse_kernels(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Shape], versions: Mapping[str, int]
) -> tuple[dict[str, Tensor], dict[str, Shape], dict[str, int | None]]:
    kernels = {name: tensor for name, tensor in weights.items() if _is_sparse_kernel(name, tensor)}
    shapes: dict[str, Shape] = {}
    for name in kernels:
        shape = wanted.get(OFFICIAL_NAMES.to_ours(name) or '')
        if shape is not None and len(shape) == 5:
            shapes[name] = spconv2_shape(shape)
    found = {name: versions.get(name.removesuffix('.weight')) for name in kernels}
    return kernels, shapes, found
