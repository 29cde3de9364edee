"""From a config file and the command line to the config that a run uses."""

import ast
import difflib
import os
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from thinktwice.command_line import describe
from thinktwice.config.modes import check_counts, resolve_loaders, resolve_modes
from thinktwice.config.overrides import READ_KEYS, apply_overrides, close_names
from thinktwice.config.references import referenced_keys, resolve_references
from thinktwice.errors import ConfigError

SCOPE = 'thinktwice'


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, apply overrides, then derive what follows from them.

    Derived are the choices of ``is_dev`` and ``is_full`` (``modes``), then the
    ``${references}``, then what a loader's number of workers and batch size entail.

    Args:
        path: A Python config file.
        options: Dotted keys to values, from ``--cfg-options``.

    Returns:
        The config with every derived value in place.

    Raises:
        ConfigError: The file or an override is wrong; the message says where.
        FileNotFoundError: No such file.
    """
    cfg = _read(path)
    apply_overrides(cfg, options or {})
    resolve_modes(cfg)
    resolve_references(cfg)
    check_counts(cfg)
    resolve_loaders(cfg)
    cfg.setdefault('default_scope', SCOPE)
    return cfg


def _read(path: str) -> Config:
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f'config {path} is a folder: name a file.{_similar(file / file.name)}')
    if not file.is_file():
        raise FileNotFoundError(f'config {path} does not exist.{_similar(file)}')
    if file.suffix != '.py':
        raise ConfigError(f'config {path} must be a Python file')
    try:
        cfg = Config.fromfile(file)
        cfg.to_dict()
        dict(cfg._cfg_dict.items())  # imports what a config imports
        _check_names(file, cfg)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program: it can fail in any way
        kind, text = type(error).__name__, getattr(error, 'msg', None) or describe(error)
        raise ConfigError(
            f'config {path}{_place(path, error)}: {text if text == kind else f"{kind}: {text}"}'
        ) from error
    return cfg


def _place(path: str, error: BaseException) -> str:
    """The base and the line where reading a config failed, as far as they are known."""
    file, line = os.path.abspath(path), getattr(error, 'lineno', None)
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == '_file2dict':  # mmengine's reader, which does not say what it reads
            file = frame.f_locals.get('filename', file)
        elif frame.f_code.co_filename in (file, path):
            line = number
    base = '' if os.path.abspath(path) == os.path.abspath(file) else f', base {file}'
    return f'{base}, line {line}' if line else base


def _check_names(file: Path, cfg: Config) -> None:
    """Refuse a variable of a config file that nothing reads and whose name is close to one that is read.

    Raises:
        ConfigError: With the file, the line and what may be meant.
    """
    if Config._is_lazy_import(str(file)):
        return
    tree = ast.parse(file.read_text(encoding='utf-8'))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = set(READ_KEYS)
    for base in Config._get_base_files(str(file)):
        base_file, _ = Config._get_cfg_path(base, str(file))
        known |= Config.fromfile(base_file, import_custom_modules=False).keys()
    used = known | referenced_keys(cfg) | {node.id for node in names if isinstance(node.ctx, ast.Load)}
    for node in names:
        if node.id in used or node.id.startswith('_') or node.id not in cfg:
            continue
        if guesses := close_names(node.id, known):
            raise ConfigError(
                f'config {file}, line {node.lineno}: nothing reads {node.id!r}. Did you mean '
                f'{" or ".join(guesses)}? If it is a value of your own, begin its name with an underscore'
            )


def _similar(file: Path) -> str:
    """A hint at files of the same folder with a similar name, or at ``configs/``."""
    folder = file.parent if file.parent.is_dir() else Path('configs')
    names = sorted(str(found) for found in folder.glob('*.py'))
    close: Sequence[str] = difflib.get_close_matches(str(folder / file.name), names, n=3) or names[:5]
    return f' Did you mean {" or ".join(close)}?' if close else ''


def require_keys(cfg: Config, keys: Iterable[str], purpose: str) -> None:
    """Check that a config has what a command needs.

    Raises:
        ConfigError: A key is missing or None.
    """
    if missing := [key for key in keys if cfg.get(key) is None]:
        raise ConfigError(
            f'config {cfg.filename} has no {" and no ".join(missing)}, which {purpose} needs: '
            'set it, or name a _base_ that does'
        )


def make_work_dir(path: str) -> None:
    """Make the folder of logs and checkpoints, if it is not there.

    Raises:
        ConfigError: It can't be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = 'a file is in its place' if isinstance(error, FileExistsError) else error.strerror
        raise ConfigError(
            f'work dir {path} cannot be made: {reason}. Choose another with --work-dir or work_dir'
        ) from error


def choose_work_dir(cfg: Config, from_command_line: str | None) -> str:
    """Work dir: the command line's, else the config's, else ``work_dirs/<name of the config>``."""
    return from_command_line or cfg.get('work_dir') or str(Path('work_dirs') / Path(cfg.filename).stem)
