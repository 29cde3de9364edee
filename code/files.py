"""Files that appear whole or not at all."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinktwice.errors import WriteError


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file under a temporary name, sync it and move it to ``path``.

    Args:
        path: Final name; its folder is made. What lies there stays until the new file is complete.
        write: Called with the open binary file.

    Raises:
        WriteError: The file cannot be written (disk full, no permission).
            The temporary file is removed and ``path`` is untouched.
    """
    if path.is_dir():
        raise WriteError(f'cannot write {path}: it is a folder; give the name of a file')
    temporary = _temporary_name(path)
    make_folder(path.parent)
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        free = _free_space(path.parent)
        remove_file(temporary)
        # torch reports a full disk as RuntimeError from its zip writer
        if isinstance(error, (OSError, RuntimeError)):
            reason = getattr(error, 'strerror', None) or error
            raise WriteError(
                f'cannot write {path}: {reason} ({free}). Free some space or check the permissions of '
                f'{path.parent}; files written before are untouched.'
            ) from error
        raise
    _fsync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those around it, where they are missing.

    Raises:
        WriteError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_place = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = 'a file is in its place, or in that of a folder around it' if in_place else error.strerror
        raise WriteError(f'cannot make the folder {path}: {reason}') from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as ``write_atomically`` does.

    Raises:
        WriteError: The file cannot be written, or ``path`` is a folder.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON as ``write_text`` does."""
    write_text(path, json.dumps(content, indent=1) + '\n')


def link_atomically(source: Path, path: Path) -> bool:
    """Make ``path`` a hard link to ``source``; what lies there stays until the link replaces it.

    Returns:
        False if that is not possible: the file system has no hard links, or ``source`` does not exist.
    """
    temporary = _temporary_name(path)
    try:
        remove_file(temporary)
        os.link(source, temporary)
        os.replace(temporary, path)
    except OSError:
        return False
    finally:
        remove_file(temporary)  # replacing one link to a file by another leaves both
    _fsync_folder(path.parent)
    return True


def remove_file(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    """Hidden name beside ``path`` that tells the host and process that write it."""
    return path.with_name(f'.{path.name}.{socket.gethostname()}.{os.getpid()}.tmp')


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


def _free_space(folder: Path) -> str:
    """Free space around ``folder`` in words: a zip writer that runs out of it speaks of positions."""
    try:
        return f'{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there'
    except OSError:
        return 'its folder cannot be reached'
