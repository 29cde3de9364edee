"""The folder of a run's checkpoints: the newest, the best, what is pruned, moved aside and left over.

``epoch_N.pth`` and ``iter_N.pth`` are saved on the way. The text file ``last_checkpoint`` names the newest
and is written after it. ``best_<metric>.pth`` is the best by an evaluation, with the score in
``best_<metric>.json``.
"""

import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import print_log

from thinktwice.checkpoint.file import (
    UntrustedCheckpointError,
    check_training_state,
    load_checkpoint,
)
from thinktwice.errors import CheckpointError, WriteError
from thinktwice.files import remove_file, write_text

POINTER_NAME = 'last_checkpoint'
CHECKPOINT_NAME = re.compile(r'^(epoch|iter)_(\d+)\.pth$')
#: Files of a run, the pointer first: a run that is moved half way then has no pointer to a missing file.
RUN_FILES = (POINTER_NAME, 'epoch_*.pth', 'iter_*.pth', 'best_*.pth', 'best_*.json')
#: Age after which a temporary file of another machine, whose processes cannot be seen, is a leftover.
LEFTOVER_SECONDS = 24 * 3600


def write_pointer(folder: Path, checkpoint_name: str) -> None:
    """Name ``checkpoint_name`` as the newest checkpoint of ``folder``."""
    write_text(folder / POINTER_NAME, checkpoint_name)


def named_by_pointer(folder: Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names, None if that file is missing or garbled."""
    try:
        # mmengine writes a full path, this package a name: a work dir can be moved
        return folder / Path((folder / POINTER_NAME).read_text(encoding='utf-8').strip()).name
    except (OSError, UnicodeDecodeError):
        return None


def find_latest_checkpoint(folder: str | Path) -> Path | None:
    """Newest whole checkpoint of a folder, None if there is none.

    That is the one that ``last_checkpoint`` names, else the newest by time. A file that is torn, damaged
    or cannot be read is skipped with a warning. A file that holds more than data is not skipped: loading
    it raises, and says what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    candidates = [path for path in folder.glob('*.pth') if CHECKPOINT_NAME.match(path.name)]
    named = named_by_pointer(folder)
    candidates.sort(key=lambda path: (path == named, path.stat().st_mtime_ns), reverse=True)
    for path in candidates:
        problem = _problem_of(path)
        if problem is None:
            return path
        print_log(
            f'{path} is skipped and the checkpoint before it tried, because it {problem}',
            logger='current',
            level=logging.WARNING,
        )
    return None


def _problem_of(path: Path) -> str | None:
    """Why a run cannot resume from a file, None if it can or if that depends on the user's trust."""
    try:
        check_training_state(path, load_checkpoint(path, mmap=True))
    except UntrustedCheckpointError:
        return None
    except (CheckpointError, FileNotFoundError) as error:
        return str(error).removeprefix(f'{path} ')
    return None


def prune_checkpoints(folder: Path, keep: Mapping[str, int], newest: str) -> list[str]:
    """Remove all but the last checkpoints of each kind; the newest checkpoint always stays.

    Args:
        folder: Folder of the checkpoints.
        keep: Number of files to keep of each kind, ``'epoch'`` and ``'iter'``; negative for all.
        newest: Name of the newest checkpoint.

    Returns:
        Names of the removed files.
    """
    removed = []
    for kind, number in keep.items():
        if number < 0:
            continue
        files = [path for path in folder.glob(f'{kind}_*.pth') if CHECKPOINT_NAME.match(path.name)]
        files.sort(key=lambda path: int(path.stem.split('_')[1]), reverse=True)
        for path in files[number:]:
            if path.name != newest:
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def best_checkpoint(folder: Path, metric: str) -> Path:
    """Path of the best checkpoint by a metric, for example ``open_loop/ade``."""
    return folder / f'best_{metric.replace("/", "_")}.pth'


def write_best_score(folder: Path, metric: str, score: float) -> None:
    """Write the score of the best checkpoint beside it."""
    path = best_checkpoint(folder, metric).with_suffix('.json')
    write_text(path, json.dumps({'metric': metric, 'score': score}))


def read_best_score(folder: Path, metric: str) -> float | None:
    """Score of the best checkpoint, None if there is no such file or its score is unknown."""
    path = best_checkpoint(folder, metric)
    try:
        if path.is_file() and path.with_suffix('.json').is_file():
            score = json.loads(path.with_suffix('.json').read_text())['score']
        else:
            # checkpoints of earlier versions hold the score themselves
            hooks = load_checkpoint(path, mmap=True)['hooks']
            score = hooks['AtomicCheckpointHook']['best_score']
        return float(score) if math.isfinite(score) else None
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None


def move_run_aside(folder: Path) -> Path | None:
    """Move the checkpoints of an earlier run from ``folder`` into a new folder inside it.

    Returns:
        The new folder, ``previous_<time>``; None if there was nothing to move.

    Raises:
        WriteError: They cannot be moved.
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
        raise WriteError(
            f'the checkpoints of an earlier run in {folder} cannot be moved to {target}: {error}. Check its '
            'permissions, choose another --work-dir, or resume that run with --resume.'
        ) from error
    return target


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed runs; those that a living process is writing stay."""
    for pattern in ('.*.pth.*.tmp', '.*.py.*.tmp', '.best_*.json.*.tmp', f'.{POINTER_NAME}.*.tmp'):
        for path in folder.glob(pattern):
            if _is_leftover(path):
                remove_file(path)


def _is_leftover(temporary: Path) -> bool:
    """Whether the process that wrote a temporary file is gone; the name holds its host and id."""
    written = re.search(rf'\.{re.escape(socket.gethostname())}\.(\d+)\.tmp$', temporary.name)
    try:
        if written and int(written.group(1)) != os.getpid():
            os.kill(int(written.group(1)), 0)
        elif written:
            return True  # of an earlier process with the same id: this one is not writing yet
        return time.time() - temporary.stat().st_mtime > LEFTOVER_SECONDS
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
