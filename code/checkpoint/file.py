"""Checkpoint files: saved whole or not at all, verified, and read without running code.

A checkpoint is a dict of plain containers and tensors, which ``torch.load(..., weights_only=True)``
reads. This package knows the keys

- ``state_dict``: the weights by name; where a moving average is kept, the average;
- ``ema_state_dict``: then, the weights in training;
- ``meta``, ``optimizer``, ``param_schedulers``, ``hooks``, ``statistics_of_processes``: the state of
  training, see ``core.training_state``;
- ``official_extra``: entries of an official checkpoint that this framework's model does not have;
- ``numerics``: ``'2023'`` for weights that were trained by the computation of the 2023 release.

A ``.safetensors`` file holds the weights, ``official_extra`` and ``numerics``. It has no checksums, and
neither do files of torch before 1.6: a damaged number in them goes unnoticed. Where the name of a
safetensors file ends in a checksum, as in ``thinktwice-1a2b3c4d.safetensors``, the file must have it.
"""

import hashlib
import json
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from thinktwice.errors import CheckpointError, describe
from thinktwice.files import write_atomically

SAFETENSORS_SUFFIX = '.safetensors'
#: Name of a published file: it ends in the first digits of its SHA-256.
PUBLISHED_NAME = re.compile(r'-([0-9a-f]{8})\.safetensors$')
#: Prefix of the entries of ``official_extra`` in a safetensors file.
EXTRA_PREFIX = 'official_extra/'
MODULE_PREFIX = 'module.'
#: Type of each part of the training state.
TRAINING_STATE = {'meta': dict, 'optimizer': dict, 'hooks': dict, 'param_schedulers': list}
#: Type of entries of its ``meta``; numbers are at least 0.
META = dict.fromkeys(('epoch', 'iter', 'batches_done', 'global_batch_size'), int) | {'cfg': str}
ZIP_START = b'PK'
#: First bytes of files of torch.save: a zip archive, before torch 1.6 a pickle.
TORCH_FILE_STARTS = (ZIP_START, b'\x80')
#: Attribute bit that makes torch take an archive's record for an empty folder; no checksum covers it.
FOLDER_BIT = 0x10
OTHER_COPY_HINT = 'Copy it again, or take another checkpoint'


class UntrustedCheckpointError(CheckpointError):
    """A checkpoint is whole, but holds objects that could run code when they are loaded."""


def save_checkpoint(checkpoint: dict, path: Path) -> None:
    """Save a checkpoint atomically.

    Args:
        checkpoint: Plain containers and tensors, the weights under ``state_dict``.
        path: File to write; with the suffix ``.safetensors`` in that format, else in that of ``torch.save``.

    Raises:
        WriteError: The file cannot be written.
    """
    if path.suffix == SAFETENSORS_SUFFIX:
        content = encode_safetensors(checkpoint)
        write_atomically(path, lambda file: file.write(content))
    else:
        write_atomically(path, lambda file: torch.save(checkpoint, file))


def encode_safetensors(checkpoint: dict, metadata: Mapping[str, str] | None = None) -> bytes:
    """Content of a safetensors file with weights, ``official_extra`` and ``numerics`` of a checkpoint.

    Args:
        checkpoint: With the weights under ``state_dict``.
        metadata: Texts to write into the header of the file beside ``format`` and ``numerics``.
    """
    extra = {EXTRA_PREFIX + name: tensor for name, tensor in checkpoint.get('official_extra', {}).items()}
    tensors = {name: tensor.contiguous() for name, tensor in {**checkpoint['state_dict'], **extra}.items()}
    numerics = {'numerics': checkpoint['numerics']} if 'numerics' in checkpoint else {}
    return _with_sorted_metadata(to_safetensors(tensors, {**(metadata or {}), 'format': 'pt', **numerics}))


def _with_sorted_metadata(content: bytes) -> bytes:
    """A safetensors file with its metadata in order: the library's order differs from call to call."""
    end = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:end])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, 'little') + text + content[end:]


def load_checkpoint(
    path: str | Path, map_location: Any = 'cpu', trust: bool = False, mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint without running code of the file.

    Args:
        path: A checkpoint of this package or of mmengine, a bare state dict, or a safetensors file.
        map_location: As in ``torch.load``.
        trust: Load arbitrary pickled objects, too. This runs code of the file.
        mmap: Map the file into memory instead of reading it; not for safetensors.

    Returns:
        The checkpoint with the keys of this module's docstring, and all others of the file. There always are
        weights under ``state_dict``; a ``module.`` that all their names begin with is removed.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is torn or damaged, is no checkpoint, or holds no weights.
            ``UntrustedCheckpointError`` if it holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    content = _read(path, trust, map_location=map_location, mmap=mmap)
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__} where a dict was expected')
    checkpoint = content if 'state_dict' in content else _from_bare_state_dict(path, content)
    for part in ('state_dict', 'ema_state_dict'):
        if part in checkpoint:
            _check_weights(path, part, checkpoint[part])
    return {**checkpoint, 'state_dict': _without_module_prefix(checkpoint['state_dict'])}


def _read(path: Path, trust: bool, **options: Any) -> Any:
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return _read_safetensors(path, options['map_location'])
        with path.open('rb') as file:
            start = file.read(2)
        if not start.startswith(TORCH_FILE_STARTS):
            raise ValueError('it does not start like a file of torch.save')
        if start == ZIP_START:
            _check_records(path)
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(path, weights_only=not trust, **options)
    except CheckpointError:
        raise
    except Exception as error:  # a flipped bit can make zipfile and torch raise almost anything
        foreign = re.search(r'GLOBAL:? (\S+)', str(error))
        if foreign and not trust:
            raise UntrustedCheckpointError(
                f'{path} holds more than weights ({foreign.group(1)}): loading it could run code of its '
                'author. If you trust them, pass --trust-checkpoint to train.py or tools/test.py, or save '
                'the state_dict alone with the program that wrote the file.'
            ) from error
        raise CheckpointError(
            f'{path} cannot be read: it is damaged, cut short or not a checkpoint '
            f'({_short_reason(path, error)}). {OTHER_COPY_HINT}'
        ) from error


def _check_records(path: Path) -> None:
    """Compare the checksums of an archive's records: ``torch.load`` itself accepts a damaged tensor.

    They do not cover the archive's list of records; the one damage there that stays silent is looked for.

    Raises:
        CheckpointError: A record is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if not any(record.CRC for record in records):
            return  # torch.serialization.set_crc32_options(False)
        hidden = [record.filename for record in records if record.external_attr & FOLDER_BIT]
        damaged = hidden[0] if hidden else archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f'{path} is damaged: the checksum of its entry {damaged} differs. {OTHER_COPY_HINT}'
        )


def _short_reason(path: Path, error: Exception) -> str:
    """First sentence of an error, without torch's advice to pass ``weights_only=False``."""
    if path.stat().st_size == 0:
        return 'the file is empty'
    message = describe(error) if isinstance(error, KeyError) else str(error)
    text = message.rpartition('WeightsUnpickler error:')[2].strip()
    first_sentence = re.split(r'[.] |\n', text)[0].rstrip('.')
    return first_sentence or type(error).__name__


def _check_name(path: Path) -> None:
    """Compare the checksum in the name of a published file, if there is one, with that of the file.

    Raises:
        CheckpointError: They differ.
    """
    if named := PUBLISHED_NAME.search(path.name):
        with path.open('rb') as file:
            checksum = hashlib.file_digest(file, 'sha256').hexdigest()
        if not checksum.startswith(named.group(1)):
            raise CheckpointError(
                f'{path} is damaged: its SHA-256 begins with {checksum[:8]}, not with the '
                f'{named.group(1)} of its name. {OTHER_COPY_HINT}'
            )


def _read_safetensors(path: Path, device: Any) -> dict[str, Any]:
    _check_name(path)
    with safe_open(path, framework='pt', device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    extra = {
        name.removeprefix(EXTRA_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(EXTRA_PREFIX)
    }
    checkpoint: dict[str, Any] = {
        'state_dict': {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA_PREFIX)}
    }
    if extra:
        checkpoint['official_extra'] = extra
    if 'numerics' in metadata:
        checkpoint['numerics'] = metadata['numerics']
    return checkpoint


class _LogHistory:
    """Replaces mmengine's ``HistoryBuffer`` in what is read; the logs of an old run are dropped."""

    def __setstate__(self, state: dict) -> None:
        """Accept any state and drop it."""


def _no_attribute(owner: type, name: str) -> None:
    """Replaces ``getattr``, by which a pickled history names its statistics."""


def safe_globals() -> list[Any]:
    """Globals that mmengine's own checkpoints need beside tensors; none can run code of the file."""
    numpy_core: Any = np._core if hasattr(np, '_core') else np.core
    core = numpy_core.multiarray
    dtypes = [type(np.dtype(name)) for name in ('float32', 'float64', 'int64', 'int32', 'bool')]
    numpy_parts = [
        (part, f'{module}.multiarray.{part.__name__}')
        for part in (core._reconstruct, core.scalar)
        for module in ('numpy.core', 'numpy._core')
    ]
    return [
        (_LogHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_no_attribute, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *dtypes,
        *numpy_parts,
    ]


def _from_bare_state_dict(path: Path, content: dict) -> dict[str, Any]:
    if content and not any(isinstance(value, (Tensor, np.ndarray)) for value in content.values()):
        keys = ', '.join(f'{key} ({type(value).__name__})' for key, value in content.items())
        raise CheckpointError(
            f'{path} holds no weights: expected are tensors by name, or a dict of them under state_dict, '
            f'but its top-level keys are {keys}. Save the weights alone, by name, and give that file'
        )
    return {'state_dict': content}


def _check_weights(path: Path, part: str, weights: Any) -> None:
    """Raise ``CheckpointError`` for anything but a dict of named tensors."""
    _check_type(path, part, weights, dict)
    if not weights:
        raise CheckpointError(f'{path} holds no weights: its {part} is empty')
    for name, value in weights.items():
        if isinstance(value, np.ndarray):
            raise CheckpointError(
                f'{path}: the weights in its {part} are arrays ({name!r} is one), expected tensors; convert '
                'them with torch.from_numpy'
            )
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{path} is not a checkpoint of a model: entry {name!r} of its {part} is of type '
                f'{type(value).__name__}, expected tensors with names'
            )


def _check_type(path: Path, part: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise CheckpointError(
            f'{path} is not a checkpoint of this framework: its {part} is of type {type(value).__name__}, '
            f'expected {expected.__name__}'
        )


def _without_module_prefix(weights: Mapping[str, Tensor]) -> 'OrderedDict[str, Tensor]':
    """Remove a prefix that all names have, in torch's metadata of the state dict, too."""
    metadata = getattr(weights, '_metadata', None)
    result = OrderedDict(weights)
    if all(name.startswith(MODULE_PREFIX) for name in weights):
        result = OrderedDict((name.removeprefix(MODULE_PREFIX), value) for name, value in weights.items())
        metadata = {name.removeprefix(MODULE_PREFIX): entry for name, entry in (metadata or {}).items()}
    if metadata:
        result._metadata = metadata  # type: ignore[attr-defined]
    return result


def check_training_state(path: str | Path, checkpoint: dict) -> None:
    """Check the types of the parts of a training state; all may be missing.

    Raises:
        CheckpointError: Names the first wrong part.
    """
    path = Path(path)
    for part, expected in TRAINING_STATE.items():
        if part in checkpoint:
            _check_type(path, part, checkpoint[part], expected)
    for key, value in checkpoint.get('meta', {}).items():
        if key in META:
            _check_type(path, f'meta.{key}', value, META[key])
            if META[key] is int and value < 0:
                raise CheckpointError(f'{path} is damaged: its meta.{key} is {value}')
