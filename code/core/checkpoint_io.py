"""Files of checkpoints: written whole or not at all, read without running code.

A checkpoint is a dict of plain containers and tensors, so ``torch.load(...,
weights_only=True)`` reads it. The text file ``last_checkpoint`` beside the
checkpoints names the newest one and is moved only after that one is complete.
"""

import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from safetensors import safe_open

from thinktwice.errors import CheckpointError

POINTER_NAME = 'last_checkpoint'
CHECKPOINT_NAME = re.compile(r'^(epoch|iter)_(\d+)\.pth$')


def _fsync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; some file systems do not offer it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file under a temporary name, sync it and move it to ``path``.

    Args:
        path: Final name. What lies there stays until the new file is complete.
        write: Called with the open binary file.

    Raises:
        CheckpointError: The file can't be written (disk full, no permission).
            The temporary file is removed and ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch reports a full disk as RuntimeError from its zip writer
        if isinstance(error, (OSError, RuntimeError)):
            raise CheckpointError(
                f'cannot write {path}: {error}. Free some space or check the permissions of '
                f'{path.parent}; files written before are untouched.'
            ) from error
        raise
    _fsync_folder(path.parent)


def save_checkpoint(checkpoint: dict, path: Path) -> None:
    """Save ``checkpoint`` (plain containers and tensors) at ``path``, atomically."""
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def write_pointer(folder: Path, checkpoint_name: str) -> None:
    """Let ``folder/last_checkpoint`` name the file ``checkpoint_name`` of the same folder."""
    write_atomically(folder / POINTER_NAME, lambda file: file.write(checkpoint_name.encode()))


def remove_temporary_files(folder: Path) -> None:
    """Remove what writers that were killed left in ``folder``."""
    for leftover in folder.glob('.*.pth.*.tmp'):
        leftover.unlink(missing_ok=True)
    for leftover in folder.glob(f'.{POINTER_NAME}.*.tmp'):
        leftover.unlink(missing_ok=True)


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

    The check sums of the archive are recomputed: ``torch.load`` itself would
    accept a file with a damaged tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        return str(error)
    return f'damaged record {damaged}' if damaged else None


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
        CheckpointError: The file is torn, or wants objects that are not data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        if path.suffix == '.safetensors':
            return _load_safetensors(path, map_location)
        with torch.serialization.safe_globals(safe_globals()):
            checkpoint = torch.load(path, map_location=map_location, weights_only=not trust)
    except Exception as error:
        wanted = re.search(r'GLOBAL:? (\S+)', str(error))
        if wanted and not trust:
            raise CheckpointError(
                f'{path} holds more than weights ({wanted.group(1)}): opening it '
                'could run code of whoever made it. If you trust its origin, pass --trust-checkpoint.'
            ) from error
        raise CheckpointError(f'{path} cannot be read as a checkpoint: {error}') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__} where a dict was expected')
    if 'state_dict' not in checkpoint and all(isinstance(v, torch.Tensor) for v in checkpoint.values()):
        return {'state_dict': checkpoint}
    return checkpoint


def _load_safetensors(path: Path, device: Any) -> dict:
    """Weights and the strings stored beside them; entries that are named with a slash are no weights."""
    with safe_open(path, framework='pt', device=str(device)) as file:
        names = [name for name in file.keys() if '/' not in name]  # noqa: SIM118
        return {**(file.metadata() or {}), 'state_dict': {name: file.get_tensor(name) for name in names}}


def _candidates(folder: Path) -> Iterable[Path]:
    """Checkpoints of ``folder``: the one ``last_checkpoint`` names, then the newest by name."""
    found = [path for path in folder.glob('*.pth') if CHECKPOINT_NAME.match(path.name)]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    pointer = folder / POINTER_NAME
    if pointer.is_file():
        # mmengine's own pointer holds a full path, ours a name: a moved work dir keeps working
        named = folder / Path(pointer.read_text().strip()).name
        if named in found:
            found.remove(named)
            found.insert(0, named)
    return found


def find_latest_checkpoint(folder: str | Path) -> Path | None:
    """Newest whole checkpoint of a work dir, or None if there is none.

    A torn or damaged file is passed over with a warning for the one before it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    for path in _candidates(folder):
        problem = verify_checkpoint_file(path)
        if problem is None:
            return path
        print_log(
            f'{path} is torn or damaged ({problem}); trying the checkpoint before it',
            logger='current',
            level=logging.WARNING,
        )
    return None
