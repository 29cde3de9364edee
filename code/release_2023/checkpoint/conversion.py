"""Convert weights between the official 2023 checkpoint and a model of this framework.

:func:`official_to_ours` and :func:`ours_to_official` translate names and layouts of a state dict,
:func:`convert_file` those of a file.

spconv 1.x, ``mmcv.ops`` and this framework store the kernel of a sparse convolution as [kz, ky, kx, in,
out]; spconv 2.x, which the official checkpoint was written with, as [out, kz, ky, kx, in].
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
from thinktwice.release_2023.checkpoint.names import (
    DERIVED_ENTRIES,
    OFFICIAL_NAMES,
    SPARSE_PREFIX,
    official_entries,
)

Shape = tuple[int, ...]
#: Value of ``numerics`` in a checkpoint of weights that were trained by the computation of 2023.
NUMERICS_2023 = '2023'
COUNTER_SUFFIX = '.num_batches_tracked'
FINEST_STRIDE = 4  # image pixels per cell of the neck's finest level
SPCONV_1 = 'kz,ky,kx,in,out'
SPCONV_2 = 'out,kz,ky,kx,in'
#: Version that spconv 2.x writes into the metadata of a state dict, per module.
SPCONV_2_VERSION = 2


@dataclass
class Conversion:
    """Translated weights, and the differences between the source and the model.

    Attributes:
        direction: Format of the translation, ``'ours'`` or ``'official'``.
        layout: Layout of the sparse kernels of the source.
        weights: Name to tensor, in the order of the model. In the official format, torch's metadata
            (``weights._metadata``) holds the version of the sparse convolutions.
        extra: Official entries that our model does not have.
        missing: Entries of the model that the source lacks, with their shapes.
        unexpected: Entries of the source without a rule, with their shapes.
        misshapen: Entries with the model's shape and the source's.
        unused: The names in ``extra``, with the reason.
        filled_in: Batch counters that the source lacks; they start from 0.
        dropped: Top-level keys of a file that were not converted, such as ``optimizer``.
    """

    direction: str
    layout: str
    weights: 'OrderedDict[str, Tensor]' = field(default_factory=OrderedDict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    filled_in: list[str] = field(default_factory=list)
    dropped: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every entry of source and model has its counterpart."""
        return not (self.missing or self.unexpected or self.misshapen)

    def differences(self) -> str:
        """The differences, one line per entry, under a heading per kind."""
        shapes = {
            'missing': {name: f'{list(shape)}' for name, shape in self.missing.items()},
            'unexpected': {name: f'{list(shape)}' for name, shape in self.unexpected.items()},
            'misshapen': {
                name: f'expected {list(wanted)}, file has {list(found)}'
                for name, (wanted, found) in self.misshapen.items()
            },
        }
        lines: list[str] = []
        for title, entries in shapes.items():
            lines += [f'{title}: {len(entries)}'] if entries else []
            lines += [f'  {name}  {shape}' for name, shape in entries.items()]
        return '\n'.join(lines)

    def arrange(self, found: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> None:
        """Put entries in the order of the model; record which are missing or misshapen."""
        for name, shape in wanted.items():
            if name not in found and name.endswith(COUNTER_SUFFIX):
                self.weights[name] = torch.zeros(shape, dtype=torch.int64)
                self.filled_in.append(name)
            elif name not in found:
                self.missing[name] = shape
            elif tuple(found[name].shape) != shape:
                self.misshapen[name] = (shape, tuple(found[name].shape))
            else:
                self.weights[name] = found[name]


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


def to_spconv2(weight: Tensor) -> Tensor:
    """Reorder a kernel [kz, ky, kx, in, out] to [out, kz, ky, kx, in] (contiguous)."""
    return weight.permute(4, 0, 1, 2, 3).contiguous()


def to_spconv1(weight: Tensor) -> Tensor:
    """Reorder a kernel [out, kz, ky, kx, in] to [kz, ky, kx, in, out] (contiguous)."""
    return weight.permute(1, 2, 3, 4, 0).contiguous()


def _is_sparse_kernel(official: str, tensor: Tensor) -> bool:
    return official.startswith(SPARSE_PREFIX) and tensor.dim() == 5


def detect_layout(weights: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> str:
    """Layout of the sparse kernels of official weights.

    One kernel whose shape fits one layout only is enough. Where all kernels fit both (equal channels and
    kernel sizes), the version that spconv 2.x writes into the state dict's metadata decides; weights
    without it are from an older library.

    Args:
        weights: Official name to tensor.
        wanted: Our name to shape.

    Returns:
        ``SPCONV_1`` or ``SPCONV_2``.

    Raises:
        CheckpointError: Some kernels fit only one layout and others only the other.
    """
    fits: dict[str, list[str]] = {SPCONV_1: [], SPCONV_2: []}
    kernels = [name for name, tensor in weights.items() if _is_sparse_kernel(name, tensor)]
    for name in kernels:
        shape, expected = tuple(weights[name].shape), wanted.get(OFFICIAL_NAMES.to_ours(name) or '')
        is_first, is_second = shape == expected, (*shape[1:], shape[0]) == expected
        if is_first != is_second:
            fits[SPCONV_2 if is_second else SPCONV_1].append(name)
    if fits[SPCONV_1] and fits[SPCONV_2]:
        raise CheckpointError(
            'the sparse convolution kernels of this file mix two layouts: '
            f'{fits[SPCONV_1][0]} is stored as [{SPCONV_1}], {fits[SPCONV_2][0]} as [{SPCONV_2}]. '
            'Save the file again with one library'
        )
    if fits[SPCONV_1] or fits[SPCONV_2]:
        return SPCONV_1 if fits[SPCONV_1] else SPCONV_2
    metadata = getattr(weights, '_metadata', None) or {}
    versions = (metadata.get(name.removesuffix('.weight'), {}).get('version') for name in kernels)
    return SPCONV_2 if SPCONV_2_VERSION in versions else SPCONV_1


def official_to_ours(weights: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Conversion:
    """Translate official weights to a model's names and layouts.

    Args:
        weights: Official name to tensor; sparse kernels in either layout, see :func:`detect_layout`.
        shapes: Our name to shape, of the model to fill.

    Returns:
        The translation; its weights are those that fit.

    Raises:
        CheckpointError: The sparse kernels have two layouts.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    conversion = Conversion('ours', detect_layout(weights, wanted))
    found: dict[str, Tensor] = {}
    for official, tensor in weights.items():
        ours = OFFICIAL_NAMES.to_ours(official)
        if official in DERIVED_ENTRIES:
            conversion.unused[official] = 'determined by the config'
        elif ours is None:
            conversion.unexpected[official] = tuple(tensor.shape)
        elif ours not in wanted:
            conversion.unused[official] = 'not in this model'
        else:
            is_reordered = conversion.layout == SPCONV_2 and _is_sparse_kernel(official, tensor)
            found[ours] = to_spconv1(tensor) if is_reordered else tensor
    conversion.extra = {name: weights[name] for name in conversion.unused}
    conversion.arrange(found, wanted)
    return conversion


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
    conversion = Conversion('official', SPCONV_1)
    conversion.unexpected = {name: tuple(t.shape) for name, t in weights.items() if name not in shapes}
    conversion.arrange(weights, {name: tuple(shape) for name, shape in shapes.items()})
    official: OrderedDict[str, Tensor] = OrderedDict(extra or {})
    metadata: OrderedDict[str, dict[str, int]] = OrderedDict()
    for ours, tensor in conversion.weights.items():
        name = OFFICIAL_NAMES.to_official(ours)
        if name is None:
            conversion.unexpected[ours] = tuple(tensor.shape)
        elif _is_sparse_kernel(name, tensor):
            official[name] = to_spconv2(tensor)
            metadata[name.removesuffix('.weight')] = {'version': SPCONV_2_VERSION}
        else:
            official[name] = tensor
    official._metadata = metadata  # type: ignore[attr-defined]
    conversion.weights = official
    return conversion


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
        The translation. The target was written if it is complete.

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
    if direction == 'ours':
        conversion = official_to_ours(weights, shapes)
        # an earlier conversion to the official format may have kept entries as well
        conversion.extra = {**extra, **conversion.extra}
    else:
        conversion = ours_to_official(weights, shapes, {**derived_entries(cfg), **extra})
    converted_keys = ('state_dict', 'official_extra', 'numerics')
    conversion.dropped = tuple(key for key in checkpoint if key not in converted_keys)
    if conversion.is_complete and target is not None:
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
