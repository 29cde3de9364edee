"""From a config file and the command line to the config that a run uses."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from thinktwice.apis.modes import resolve_loaders, resolve_modes
from thinktwice.apis.overrides import apply_overrides
from thinktwice.apis.references import resolve_references
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
    resolve_loaders(cfg)
    cfg.setdefault('default_scope', SCOPE)
    return cfg


def _read(path: str) -> Config:
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'config {path} does not exist.{_similar(file)}')
    if file.suffix != '.py':
        raise ConfigError(f'config {path} must be a Python file')
    try:
        return Config.fromfile(file)
    except (SyntaxError, NameError) as error:
        raise ConfigError(f'config {path}: {error}') from error
    except (KeyError, TypeError, FileNotFoundError, ImportError) as error:
        raise ConfigError(f'config {path} or one of its bases: {type(error).__name__}: {error}') from error


def _similar(file: Path) -> str:
    """A hint at files of the same folder with a similar name, or at ``configs/``."""
    folder = file.parent if file.parent.is_dir() else Path('configs')
    names = sorted(str(found) for found in folder.glob('*.py'))
    close: Sequence[str] = difflib.get_close_matches(str(folder / file.name), names, n=3) or names[:5]
    return f' Did you mean {" or ".join(close)}?' if close else ''


def choose_work_dir(cfg: Config, from_command_line: str | None) -> str:
    """Work dir: the command line's, else the config's, else ``work_dirs/<name of the config>``."""
    return from_command_line or cfg.get('work_dir') or str(Path('work_dirs') / Path(cfg.filename).stem)
