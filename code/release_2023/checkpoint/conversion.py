"""Convert weights between the official 2023 checkpoint and a model of this framework.

:func:`official_to_ours` and :func:`ours_to_official` translate names and layouts of a state dict,
:func:`convert_file` those of a file.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from thinktwice.checkpoint.file import load_checkpoint, save_checkpoint
from thinktwice.config.load import load_config
from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.layouts import (
    SPCONV_1,
    SPCONV_2,
    SPCONV_2_VERSION,
    detect_layout,
    spconv2_shape,
    to_spconv1,
    to_spconv2,
)
from thinktwice.release_2023.checkpoint.names import (
    DERIVED_ENTRIES,
    OFFICIAL_NAMES,
    SPARSE_PREFIX,
    official_entries,
)

Shape = tuple[int, ...]
#: Value of ``numerics`` in a checkpoint of weights that were trained by the computation of 2023.
NUMERICS_2023 = '2023'
DIRECTIONS = ('ours', 'official')
COUNTER_SUFFIX = '.num_batches_tracked'
FINEST_STRIDE = 4  # image pixels per cell of the neck's finest level


@dataclass
class ConversionReport:
    """Differences between a file and a model.

    Attributes:
        missing: Entries of the model that the file lacks, with their shapes.
        unexpected: Entries of the file without a rule, with their shapes.
        misshapen: Entries with the model's shape and the file's.
        unused: Entries of the file that the model does not have, with the reason.
        filled_in: Batch counters that the file lacks; they start from 0.
    """

    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    filled_in: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every entry of file and model has its counterpart."""
        return not (self.missing or self.unexpected or self.misshapen)

    def table(self) -> str:
        """The differences, one line per entry, under a heading per kind."""
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
        """Raise a ``CheckpointError`` with the table if anything does not fit."""
        if not self.is_complete:
            raise CheckpointError(f'the weights do not fit the model\n{self.table()}')


@dataclass
class Conversion:
    """Translated weights.

    Attributes:
        direction: Format of the translation, ``'ours'`` or ``'official'``.
        weights: Name to tensor, in the order of the model. In the official format, torch's metadata
            (``weights._metadata``) holds the version of the sparse convolutions.
        extra: Official entries that our model does not have.
        report: Differences between file and model.
        layout: Layout of the sparse kernels of the source.
        dropped: Top-level keys of a file that were not converted, such as ``optimizer``.
    """

    direction: str
    weights: 'OrderedDict[str, Tensor]'
    extra: dict[str, Tensor]
    report: ConversionReport
    layout: str
    dropped: tuple[str, ...] = ()


def build_model(config: Mapping[str, Any], device: str = 'cpu') -> nn.Module:
    """Build the ``model`` of a config without initializing or downloading weights.

    Args:
        config: A config with the key ``model``.
        device: ``'meta'`` gives names and shapes without memory.
    """
    # importing the model code takes seconds, since it imports mmdet3d
    from thinktwice.registry import MODELS, SCOPE

    with DefaultScope.overwrite_default_scope(SCOPE), torch.device(device):
        return MODELS.build(config['model'])


def derived_entries(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The official entries that a config determines: grid and frustum.

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


def official_to_ours(weights: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Conversion:
    """Translate official weights to a model's names and layouts.

    Args:
        weights: Official name to tensor; sparse kernels in either layout. If shapes do not tell which,
            torch's metadata of the state dict does.
        shapes: Our name to shape, of the model to fill.

    Returns:
        The translation; its weights are those that fit.

    Raises:
        CheckpointError: The sparse kernels have two layouts.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    layout = detect_layout(*_sparse_kernels(weights, wanted))
    report = ConversionReport()
    found: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for official, tensor in weights.items():
        ours = OFFICIAL_NAMES.to_ours(official)
        if official in DERIVED_ENTRIES:
            extra[official] = tensor
            report.unused[official] = 'determined by the config'
        elif ours is None:
            report.unexpected[official] = tuple(tensor.shape)
        elif ours not in wanted:
            extra[official] = tensor
            report.unused[official] = 'not in this model'
        else:
            kernel = layout == SPCONV_2 and _is_sparse_kernel(official, tensor)
            found[ours] = to_spconv1(tensor) if kernel else tensor
    ordered = _arrange(found, wanted, report)
    return Conversion('ours', ordered, extra, report, layout)


def ours_to_official(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    extra: Mapping[str, Tensor] | None = None,
) -> Conversion:
    """Translate a model's weights to the official names and layouts.

    Args:
        weights: Our name to tensor.
        shapes: Our name to shape, of the weights' model.
        extra: Further official entries, of the config or of an earlier conversion.

    Returns:
        The translation; sparse kernels have the layout of spconv 2, and the version of it in torch's
        metadata, without which the official loader would reorder them.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    report = ConversionReport()
    known = {name: tensor for name, tensor in weights.items() if name in wanted}
    report.unexpected = {name: tuple(t.shape) for name, t in weights.items() if name not in wanted}
    ordered = _arrange(known, wanted, report)
    official: OrderedDict[str, Tensor] = OrderedDict(extra or {})
    metadata: OrderedDict[str, dict[str, int]] = OrderedDict()
    for ours, tensor in ordered.items():
        name = OFFICIAL_NAMES.to_official(ours)
        if name is None:
            report.unexpected[ours] = tuple(tensor.shape)
            continue
        if _is_sparse_kernel(name, tensor):
            tensor = to_spconv2(tensor)
            metadata[name.removesuffix('.weight')] = {'version': SPCONV_2_VERSION}
        official[name] = tensor
    official._metadata = metadata  # type: ignore[attr-defined]
    return Conversion('official', official, {}, report, SPCONV_1)


def _arrange(
    found: Mapping[str, Tensor], wanted: Mapping[str, Shape], report: ConversionReport
) -> 'OrderedDict[str, Tensor]':
    """Put entries in the order of the model; report which are missing or misshapen."""
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
    weights: Mapping[str, Tensor], wanted: Mapping[str, Shape]
) -> tuple[dict[str, Tensor], dict[str, Shape], dict[str, int | None]]:
    """Sparse kernels by name, their expected shapes in spconv 2 layout, the versions of their modules."""
    kernels = {name: tensor for name, tensor in weights.items() if _is_sparse_kernel(name, tensor)}
    shapes: dict[str, Shape] = {}
    for name in kernels:
        shape = wanted.get(OFFICIAL_NAMES.to_ours(name) or '')
        if shape is not None and len(shape) == 5:
            shapes[name] = spconv2_shape(shape)
    metadata = getattr(weights, '_metadata', None) or {}
    versions = {name: metadata.get(name.removesuffix('.weight'), {}).get('version') for name in kernels}
    return kernels, shapes, versions


def convert_file(
    source: str | Path, target: str | Path | None, config: str | Path, direction: str = 'auto'
) -> Conversion:
    """Read, translate and, where everything fits, write a checkpoint.

    Args:
        source: File to read.
        target: File to write; None only checks.
        config: Config of the model on our side.
        direction: ``'ours'``, ``'official'``, or ``'auto'`` for the format that the source is not in.

    Returns:
        The translation. The target was written if its report is complete.

    Raises:
        FileNotFoundError: Source or config do not exist.
        CheckpointError: The source cannot be read, or its names are of neither format.
        WriteError: The target cannot be written.
    """
    if not Path(config).is_file():
        raise FileNotFoundError(f'{config}: no such config')
    checkpoint = load_checkpoint(source)
    weights, extra = checkpoint['state_dict'], checkpoint.get('official_extra', {})
    cfg = load_config(str(config))
    shapes = model_shapes(build_model(cfg, device='meta'))
    if direction == 'auto':
        direction = guess_direction(weights, shapes)
    if direction not in DIRECTIONS:
        raise ValueError(f'direction {direction!r}: expected one of {DIRECTIONS} or "auto"')
    if direction == 'ours':
        conversion = official_to_ours(weights, shapes)
        # an earlier conversion to the official format may have kept entries as well
        conversion.extra = {**extra, **conversion.extra}
    else:
        conversion = ours_to_official(weights, shapes, {**derived_entries(cfg), **extra})
    converted_keys = ('state_dict', 'official_extra', 'numerics')
    conversion.dropped = tuple(key for key in checkpoint if key not in converted_keys)
    if conversion.report.is_complete and target is not None:
        converted: dict[str, Any] = {'state_dict': conversion.weights}
        if conversion.extra:
            converted['official_extra'] = conversion.extra
        if direction == 'ours':
            converted['numerics'] = NUMERICS_2023
        save_checkpoint(converted, Path(target))
    return conversion


def guess_direction(names: Iterable[str], our_names: Iterable[str]) -> str:
    """Format that the names of a file are not of.

    Raises:
        CheckpointError: The names are of neither format.
    """
    found = set(names)
    ours = len(found & set(our_names))
    official = len(found & (set(official_entries()) | set(DERIVED_ENTRIES)))
    if not ours and not official:
        example = ', '.join(sorted(found)[:3])
        raise CheckpointError(
            f'none of the {len(found)} names of this file ({example}, ...) is of the official model or of '
            'the model of the config; is it a ThinkTwice checkpoint?'
        )
    return 'ours' if official >= ours else 'official'
