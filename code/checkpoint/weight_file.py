"""Read and write weight files of strangers: tensors only, whole or not at all."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from thinktwice.checkpoint import file as checkpoint_io
from thinktwice.files import write_atomically

SAFETENSORS_SUFFIX = '.safetensors'
#: Prefix, in a safetensors file, of entries that belong to the file and not to the model.
EXTRA_PREFIX = 'official_extra/'
MODULE_PREFIX = 'module.'
#: Says, in a file of ours, that its weights were trained by the computation of 2023.
NUMERICS_KEY = 'numerics'


class UnsafeCheckpointError(ValueError):
    """A file that could run code of its author while it is read."""


@dataclass
class WeightFile:
    """Content of a weight file.

    Attributes:
        weights: Name to tensor, without a ``module.`` prefix.
        extra: Official entries that the converted model has no place for.
        versions: Module name to the version in the state dict's metadata.
        dropped: Top-level keys of the file that hold no weights (``optimizer``).
        numerics: ``'2023'`` if a file of ours holds weights of the 2023 computation.
    """

    weights: 'OrderedDict[str, Tensor]'
    extra: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    numerics: str | None = None


def read_weights(path: str | Path) -> WeightFile:
    """Read a state dict from a ``.pth`` or ``.safetensors`` file without running its code.

    Args:
        path: A bare state dict, a dict with the weights under ``state_dict``, or a
            safetensors file; a leading ``module.`` of the names is stripped.

    Returns:
        The weights and what stood beside them.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If reading would need arbitrary unpickling.
        ValueError: If the file is broken or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such checkpoint file')
    if path.suffix == SAFETENSORS_SUFFIX:
        return _split_extra(*_read_safetensors(path))
    if not _looks_like_torch_file(path):
        raise ValueError(f'{path}: not a checkpoint file, it starts like no file that torch.save writes')
    content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f'{path}: holds a {type(content).__name__}, expected a dict of tensors')
    nested = content.get('state_dict')
    state_dict = nested if isinstance(nested, Mapping) else content
    _check_tensors(path, state_dict)
    extra = content.get('official_extra', {}) if isinstance(nested, Mapping) else {}
    dropped = tuple(key for key in content if key not in ('state_dict', 'official_extra', NUMERICS_KEY))
    return _without_module_prefix(
        WeightFile(
            weights=OrderedDict(state_dict),
            extra=dict(extra),
            versions=_metadata_versions(state_dict),
            dropped=dropped if isinstance(nested, Mapping) else (),
            numerics=content.get(NUMERICS_KEY) if isinstance(nested, Mapping) else None,
        )
    )


def _read_torch(path: Path) -> Any:
    try:
        # numbers and logs that training frameworks leave beside the weights are data too
        with torch.serialization.safe_globals(checkpoint_io.safe_globals()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        reason = checkpoint_io.foreign_object(error) or 'an unknown instruction'
        raise UnsafeCheckpointError(
            f'{path}: refused, it holds more than tensors and plain containers ({reason}), and reading it '
            'could run code stored in the file. If you trust its author, save its state_dict alone with '
            'the program that wrote it and convert that file.'
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f'{path}: cannot be read as a checkpoint, it may be cut short ({error})') from error


def _looks_like_torch_file(path: Path) -> bool:
    """Whether the file starts like a zip archive or a binary pickle."""
    with path.open('rb') as file:
        head = file.read(2)
    return head == b'PK' or head[:1] == b'\x80'


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework='pt', device='cpu') as file:
            numerics = (file.metadata() or {}).get(NUMERICS_KEY)
            return {name: file.get_tensor(name) for name in file.keys()}, numerics  # noqa: SIM118
    except Exception as error:  # safetensors raises its own types for a broken header
        raise ValueError(f'{path}: cannot be read as a safetensors file ({error})') from error


def _split_extra(tensors: Mapping[str, Tensor], numerics: str | None) -> WeightFile:
    weights = OrderedDict((k, v) for k, v in tensors.items() if not k.startswith(EXTRA_PREFIX))
    extra = {k.removeprefix(EXTRA_PREFIX): v for k, v in tensors.items() if k.startswith(EXTRA_PREFIX)}
    return _without_module_prefix(WeightFile(weights=weights, extra=extra, numerics=numerics))


def _check_tensors(path: Path, state_dict: Mapping[Any, Any]) -> None:
    if not state_dict:
        raise ValueError(f'{path}: the state dict is empty')
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f'{path}: entry {name!r} is a {type(value).__name__}, expected a tensor; the file must hold '
                'a state dict, or a dict with one under the key "state_dict"'
            )


def _metadata_versions(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    metadata = getattr(state_dict, '_metadata', None) or {}
    return {
        module: entry['version']
        for module, entry in metadata.items()
        if isinstance(entry, Mapping) and isinstance(entry.get('version'), int)
    }


def _without_module_prefix(file: WeightFile) -> WeightFile:
    if not all(name.startswith(MODULE_PREFIX) for name in file.weights):
        return file
    return replace(
        file,
        weights=OrderedDict((k.removeprefix(MODULE_PREFIX), v) for k, v in file.weights.items()),
        versions={k.removeprefix(MODULE_PREFIX): v for k, v in file.versions.items()},
    )


def write_weights(path: str | Path, file: WeightFile) -> None:
    """Write a weight file; it appears whole or not at all.

    Args:
        path: Target; the suffix ``.safetensors`` selects that format, anything else
            the one of ``torch.save`` with the weights under ``state_dict``.
        file: Weights, extra entries and module versions. A safetensors file keeps no
            versions.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS_SUFFIX:
        tensors = dict(file.weights) | {EXTRA_PREFIX + k: v for k, v in file.extra.items()}
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {'format': 'pt'} | ({NUMERICS_KEY: file.numerics} if file.numerics else {})
        write_atomically(path, lambda target: target.write(to_bytes(contiguous, metadata)))
        return
    state_dict: OrderedDict[str, Tensor] = OrderedDict(file.weights)
    if file.versions:
        versions = OrderedDict((module, {'version': version}) for module, version in file.versions.items())
        state_dict._metadata = versions  # type: ignore[attr-defined]
    content: dict[str, Any] = {'state_dict': state_dict}
    if file.extra:
        content['official_extra'] = dict(file.extra)
    if file.numerics:
        content[NUMERICS_KEY] = file.numerics
    write_atomically(path, lambda target: torch.save(content, target))
