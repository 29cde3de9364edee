"""Files of checkpoints: written whole or not at all, read without running code.

A checkpoint is a dict of plain containers and tensors, so ``torch.load(...,
weights_only=True)`` reads it. The text file ``last_checkpoint`` beside the
checkpoints names the newest one and is moved only after that one is complete.
"""

import logging
import os
import re
import socket
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from safetensors import safe_open

from thinktwice.errors import CheckpointError
from thinktwice.files import remove_file, write_atomically

POINTER_NAME = 'last_checkpoint'
CHECKPOINT_NAME = re.compile(r'^(epoch|iter)_(\d+)\.pth$')
#: What a run leaves behind, the pointer first: without it nothing half moved looks newer than it is.
RUN_FILES = (POINTER_NAME, 'epoch_*.pth', 'iter_*.pth', 'best_*.pth')
#: Kinds of the parts that ``--resume`` takes up.
TRAINING_STATE = {'meta': dict, 'optimizer': dict, 'hooks': dict, 'param_schedulers': list}
#: A temporary file of another machine, whose processes can't be seen, is a leftover after so long.
LEFTOVER_SECONDS = 24 * 3600
#: Bit of an archive's record by which torch takes it for a folder, without content; not in its check sum.
FOLDER_BIT = 0x10


class UntrustedCheckpointError(CheckpointError):
    """A file that is whole, but wants objects that could run code."""


def save_checkpoint(checkpoint: dict, path: Path) -> None:
    """Save ``checkpoint`` (plain containers and tensors) at ``path``, atomically."""
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def write_pointer(folder: Path, checkpoint_name: str) -> None:
    """Let ``folder/last_checkpoint`` name the file ``checkpoint_name`` of the same folder."""
    write_atomically(folder / POINTER_NAME, lambda file: file.write(checkpoint_name.encode()))


def remove_temporary_files(folder: Path) -> None:
    """Remove what writers that were killed left in ``folder``; another run there may be writing."""
    for pattern in ('.*.pth.*.tmp', f'.{POINTER_NAME}.*.tmp'):
        for path in folder.glob(pattern):
            if _is_leftover(path):
                remove_file(path)


def _is_leftover(temporary: Path) -> bool:
    """Whether the process that wrote a temporary file is gone; its host and number stand in the name."""
    written = re.search(rf'\.{re.escape(socket.gethostname())}\.(\d+)\.tmp$', temporary.name)
    try:
        if written and int(written.group(1)) != os.getpid():
            os.kill(int(written.group(1)), 0)
        elif written:
            return True  # of a process before us with our number: we are writing nothing yet
        return time.time() - temporary.stat().st_mtime > LEFTOVER_SECONDS
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False


def move_run_aside(folder: Path) -> Path | None:
    """Move the checkpoints of an earlier run from ``folder`` into a new folder inside it.

    Returns:
        The new folder, ``previous_<time>``; None if there was nothing to move.

    Raises:
        CheckpointError: They can't be moved.
    """
    found = [path for pattern in RUN_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not found:
        return None
    name = f'previous_{time.strftime("%Y%m%d_%H%M%S")}'
    used = len(list(folder.glob(f'{name}*')))
    target = folder / (f'{name}_{used + 1}' if used else name)
    try:
        target.mkdir()
        for path in found:
            path.rename(target / path.name)
    except OSError as error:
        raise CheckpointError(
            f'the checkpoints of an earlier run in {folder} cannot be moved to {target}: {error}. Check its '
            'permissions, choose another --work-dir, or continue that run with --resume.'
        ) from error
    return target


class _LogHistory:
    """Stands in for mmengine's ``HistoryBuffer``: old logs are of no use, their state is dropped."""

    def __setstate__(self, state: dict) -> None:
        """Accept whatever was stored and keep nothing."""


def _method_of_history(owner: type, name: str) -> None:
    """Stand in for ``getattr``, by which a stored history names its statistics."""


def safe_globals() -> list[Any]:
    """What mmengine's own checkpoints hold beside tensors, each unable to run code of the file."""
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
        (_method_of_history, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *dtypes,
        *numpy_parts,
    ]


def verify_checkpoint_file(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file, or None if every byte of it is as written.

    The check sums of the archive are recomputed: ``torch.load`` itself would accept a file
    with a damaged tensor. They do not cover the archive's list of records; what damage there
    could change in silence is compared with what ``torch.save`` writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            hidden = [record.filename for record in archive.infolist() if record.external_attr & FOLDER_BIT]
    except Exception as error:  # a flipped bit makes zipfile raise whatever its parts do
        return str(error) or type(error).__name__
    if damaged or hidden:
        return f'damaged record {damaged or hidden[0]}'
    return None


def load_checkpoint(path: str | Path, map_location: Any = 'cpu', trust: bool = False) -> dict:
    """Read a checkpoint as data.

    Args:
        path: File written by this package, by mmengine, a plain state dict, or a safetensors file.
        map_location: As in ``torch.load``.
        trust: Allow arbitrary pickled objects. Runs code of the file.

    Returns:
        The checkpoint; a plain state dict is returned as ``{'state_dict': ...}``.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file is torn, wants objects that are not data
            (``UntrustedCheckpointError``), or its parts are of another kind than a run's.
    """
    checkpoint = _read(Path(path), trust, map_location=map_location)
    _check_weights(Path(path), checkpoint)
    return checkpoint


def _read(path: Path, trust: bool, **options: Any) -> dict:
    """Read what ``load_checkpoint`` returns; ``options`` are those of ``torch.load``."""
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        if path.suffix == '.safetensors':
            return _load_safetensors(path, options['map_location'])
        with torch.serialization.safe_globals(safe_globals()):
            checkpoint = torch.load(path, weights_only=not trust, **options)
    except Exception as error:
        wanted = foreign_object(error)
        if wanted and not trust:
            raise UntrustedCheckpointError(
                f'{path} holds more than weights ({wanted}): opening it '
                'could run code of whoever made it. If you trust its origin, pass --trust-checkpoint.'
            ) from error
        raise CheckpointError(
            f'{path} cannot be read: it is not a checkpoint, or cut short ({_short_reason(path, error)})'
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__} where a dict was expected')
    if 'state_dict' not in checkpoint and all(isinstance(v, torch.Tensor) for v in checkpoint.values()):
        return {'state_dict': checkpoint}
    return checkpoint


def foreign_object(error: Exception) -> str | None:
    """Name of the object that is no data, if one is why ``torch.load`` refused a file."""
    wanted = re.search(r'GLOBAL:? (\S+)', str(error))
    return wanted.group(1) if wanted else None


def _check_weights(path: Path, checkpoint: dict) -> None:
    """Refuse weights that are no named tensors.

    Raises:
        CheckpointError: Names the first wrong entry.
    """
    for part in ('state_dict', 'ema_state_dict'):
        weights = checkpoint.get(part, {})
        _check_kind(path, part, weights, dict)
        for name, value in weights.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f'{path} is no checkpoint of a model: entry {name!r} of its {part} is a '
                    f'{type(value).__name__}, expected were tensors with names. Give another file'
                )


def _check_kind(path: Path, part: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise CheckpointError(
            f'{path} is no checkpoint of a run: its {part} is a {type(value).__name__}, expected was a '
            f'{kind.__name__}. Give another file'
        )


def check_training_state(path: str | Path, checkpoint: dict) -> None:
    """Refuse a checkpoint whose training state can't be that of a run; it may have none.

    Raises:
        CheckpointError: Names the first wrong part.
    """
    path = Path(path)
    for part, kind in TRAINING_STATE.items():
        if part in checkpoint:
            _check_kind(path, part, checkpoint[part], kind)
    for key in ('epoch', 'iter', 'batches_done'):
        _check_kind(path, f'meta.{key}', checkpoint.get('meta', {}).get(key, 0), int)


def _short_reason(path: Path, error: Exception) -> str:
    """What went wrong, without torch's advice to open the file all the same."""
    if path.stat().st_size == 0:
        return 'the file is empty'
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip()
    first_sentence = re.split(r'[.] |\n', text)[0].rstrip('.')
    return f'{type(error).__name__}: {first_sentence}'


def _load_safetensors(path: Path, device: Any) -> dict:
    """Weights and the strings stored beside them; entries that are named with a slash are no weights."""
    with safe_open(path, framework='pt', device=str(device)) as file:
        names = [name for name in file.keys() if '/' not in name]  # noqa: SIM118
        return {**(file.metadata() or {}), 'state_dict': {name: file.get_tensor(name) for name in names}}


def _candidates(folder: Path) -> Iterable[Path]:
    """Checkpoints of ``folder``: the one ``last_checkpoint`` names, then the newest by name."""
    found = [path for path in folder.glob('*.pth') if CHECKPOINT_NAME.match(path.name)]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    named = named_by_pointer(folder)
    if named in found:
        found.remove(named)
        found.insert(0, named)
    return found


def named_by_pointer(folder: Path) -> Path | None:
    """The checkpoint that ``folder/last_checkpoint`` names, None if that file is missing or garbled."""
    try:
        # mmengine's own pointer holds a full path, ours a name: a moved work dir keeps working
        return folder / Path((folder / POINTER_NAME).read_text(encoding='utf-8').strip()).name
    except (OSError, UnicodeDecodeError):
        return None


def _problem_of(path: Path) -> str | None:
    """Why a run can't go on from a file, None if it can, or if that is not for us to decide."""
    if problem := verify_checkpoint_file(path):
        return problem
    try:
        # mapped: the tensors have been read for their check sums
        checkpoint = _read(path, trust=False, map_location='cpu', mmap=True)
        _check_weights(path, checkpoint)
        check_training_state(path, checkpoint)
    except UntrustedCheckpointError:
        return None  # whole; going back in silence would hide it, so loading it says what to do
    except (CheckpointError, FileNotFoundError) as error:
        return str(error).removeprefix(f'{path} ')
    return None


def find_latest_checkpoint(folder: str | Path) -> Path | None:
    """Newest whole checkpoint of a work dir, or None if there is none.

    A file that is torn, damaged or can't be read is passed over with a warning for the one before it.
    One that holds more than weights is not: whether it is trusted shows when it is loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    for path in _candidates(folder):
        problem = _problem_of(path)
        if problem is None:
            return path
        print_log(
            f'{path} is torn or damaged ({problem}); trying the checkpoint before it',
            logger='current',
            level=logging.WARNING,
        )
    return None
