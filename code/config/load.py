"""From a config file and overrides to the config that a run uses: read, override, resolve, check."""

import ast
import copy
import difflib
import importlib
import logging
import os
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, get_type_hints

from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log
from mmengine.utils import get_object_from_string

from thinktwice.config.annotations import check_value
from thinktwice.config.keys import READ_KEYS, ConfigKeys, ImportKeys
from thinktwice.config.modes import resolve_loaders, resolve_modes
from thinktwice.config.overrides import apply_overrides, close_names
from thinktwice.config.references import referenced_keys, resolve_references
from thinktwice.errors import ConfigError, describe

SCOPE = 'thinktwice'
MODE_KEYS = ('is_dev', 'is_full', 'data_modes')
"""Keys that are read before references are resolved."""


class ResolvedConfig(Config):
    """A config that has been through ``load_config``.

    Its text is formatted once, which takes a second: mmengine asks for it for the log, for its file, for each
    backend and for each checkpoint.
    """

    def __init__(self, cfg: Config) -> None:
        self.__dict__.update(vars(cfg))

    @property
    def pretty_text(self) -> str:
        """The config as Python code."""
        content = repr(self._cfg_dict)
        before, text = self.__dict__.get('_formatted', ('', ''))
        if content != before:
            text = super().pretty_text
            self.__dict__['_formatted'] = content, text
        return text


def load_config(config: str | Path | Config, options: dict[str, Any] | None = None) -> ResolvedConfig:
    """Read a config, apply overrides, then derive what follows from them.

    Derived are the choices of ``is_dev`` and ``is_full`` (``modes``), then the
    ``${references}``, then what a loader's number of workers and batch size entail.

    Args:
        config: A Python config file, or a ``Config``, which stays as it is. In one that was returned by
            this function, an override changes the entry of that name and nothing derived from it.
        options: Dotted keys to values, as from ``--cfg-options``.

    Returns:
        The config with every derived value in place.

    Raises:
        ConfigError: The file or an override is wrong; the message says where.
        FileNotFoundError: No such file.
    """
    cfg = copy.deepcopy(config) if isinstance(config, Config) else _read(Path(config))
    apply_overrides(cfg, options or {})
    if not isinstance(cfg, ResolvedConfig):
        _check_types(cfg, MODE_KEYS)
        resolve_modes(cfg)
        resolve_references(cfg)
        cfg.setdefault('default_scope', SCOPE)
        cfg = ResolvedConfig(cfg)
    _check_types(cfg, READ_KEYS)
    resolve_loaders(cfg)
    return cfg


def _check_types(cfg: Config, keys: Collection[str]) -> None:
    types = get_type_hints(ConfigKeys, include_extras=True)
    for key in (key for key in cfg if key in keys):
        check_value(key, cfg[key], types[key])


def _read(file: Path) -> Config:
    if file.is_dir():
        raise ConfigError(f'config {file} is a folder: name a file.{_similar(file / file.name)}')
    if not file.is_file():
        raise FileNotFoundError(f'config {file} does not exist.{_similar(file)}')
    if file.suffix != '.py':
        raise ConfigError(f'config {file} must be a Python file')
    sources: dict[str, ast.Module] = {}
    try:
        _parse(str(file), sources)
        # mmengine also takes a config that imports anything for a lazy one
        is_lazy = any(isinstance(node, ast.With) for node in sources[str(file)].body)
        with _byte_order_mark_is_skipped():
            cfg = Config.fromfile(file, import_custom_modules=False, lazy_import=is_lazy)
        _make_plain(cfg)
        cfg.to_dict()
        dict(cfg.items())  # imports the objects of a lazy config
    except (Exception, SystemExit) as error:  # a config is a program: it can fail in any way
        place, text = _place(error, file, sources), _reason(error)
        raise ConfigError(f'config {file}{place}: {text}') from error
    _check_names(str(file), sources, cfg)
    _import_own_modules(cfg)
    return cfg


def _make_plain(cfg: Config) -> None:
    """Leave values that logs and checkpoints can hold as text; drop the classes that a file imports.

    Raises:
        ConfigError: A value is an object that cannot be written as text.
    """
    entries = vars(cfg)['_cfg_dict']
    for key, value in list(dict.items(entries)):
        if isinstance(value, type):
            dict.pop(entries, key)
        else:
            dict.__setitem__(entries, key, _plain(value, key))


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        for name, item in list(dict.items(value)):
            dict.__setitem__(value, name, _plain(item, f'{key}.{name}'))
    elif type(value) in (list, tuple):
        return type(value)(_plain(item, f'{key}.{index}') for index, item in enumerate(value))
    elif isinstance(value, PurePath):
        return str(value)
    elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        name = f'{value.__module__}.{value.__qualname__}'
        if get_object_from_string(name) is not value:
            raise ConfigError(
                f'{key} is {value.__name__}, which only this file has: put it into a module of its own, name '
                'that in custom_imports, and write its name here'
            )
        return name
    elif not isinstance(value, (bool, int, float, str, NoneType, LazyObject, LazyAttr)):
        try:
            ast.parse(repr(value), mode='eval')
        except SyntaxError as error:
            raise ConfigError(
                f'{key} is an object of class {type(value).__name__}: write a number, text, list or dict'
            ) from error
    return value


def _import_own_modules(cfg: Config) -> None:
    """Import the modules that ``custom_imports`` names; their own errors keep their traceback.

    Raises:
        ConfigError: There is no such module.
    """
    wanted = cfg.get('custom_imports') or {}
    check_value(f'config {cfg.filename}: custom_imports', wanted, ImportKeys)
    if unknown := sorted(wanted.keys() - ImportKeys.__annotations__.keys()):
        raise ConfigError(
            f'config {cfg.filename}: custom_imports has no key {unknown[0]!r}, only imports and '
            'allow_failed_imports'
        )
    names = wanted.get('imports') or []
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            is_missing = error.name is not None and f'{name}.'.startswith(f'{error.name}.')
            if not is_missing and not wanted.get('allow_failed_imports'):
                raise
            message = (
                f'config {cfg.filename}: custom_imports names {name}, which cannot be imported ({error}): '
                'correct the name, or add the folder that holds it to PYTHONPATH'
            )
            if not wanted.get('allow_failed_imports'):
                raise ConfigError(message) from error
            print_log(message, logger='current', level=logging.WARNING)


@contextmanager
def _byte_order_mark_is_skipped() -> Iterator[None]:
    """Let mmengine read files that editors on Windows start with a byte order mark."""

    def open_text(file: Any, mode: str = 'r', encoding: str | None = None) -> Any:
        return open(file, mode, encoding='utf-8-sig' if (mode, encoding) == ('r', 'utf-8') else encoding)

    vars(mmengine_config)['open'] = open_text
    try:
        yield
    finally:
        del vars(mmengine_config)['open']


def _parse(file: str, sources: dict[str, ast.Module]) -> None:
    """Parse a config file and its bases into ``sources``, by path; those of other packages are left out."""
    if file in sources:
        return
    sources[file] = ast.Module(body=[], type_ignores=[])  # its key says which file could not be parsed
    sources[file] = tree = ast.parse(Path(file).read_text(encoding='utf-8-sig'), file)
    for node in tree.body:
        if '_base_' in _assigned(node):
            assert isinstance(node, ast.Assign)
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                if '::' not in base:
                    _parse(os.path.join(os.path.dirname(os.path.abspath(file)), base), sources)


def _assigned(node: ast.stmt) -> list[str]:
    return [n.id for n in node.targets if isinstance(n, ast.Name)] if isinstance(node, ast.Assign) else []


def _place(error: BaseException, file: Path, sources: dict[str, ast.Module]) -> str:
    """The base and the line where reading a config failed, as far as they are known."""
    paths = {os.path.abspath(path): path for path in sources}
    frames = [
        (paths[os.path.abspath(frame.f_code.co_filename)], line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if os.path.abspath(frame.f_code.co_filename) in paths
    ]
    source, line = frames[-1] if frames else (str(file), None)
    if isinstance(error, (SyntaxError, FileNotFoundError)) and not frames:
        source, line = list(sources)[-1], getattr(error, 'lineno', None)
    base = '' if source == str(file) else f', base {source}'
    return f'{base}, line {line}' if line else base


def _reason(error: BaseException) -> str:
    text = getattr(error, 'msg', None) or describe(error)
    if isinstance(error, TypeError) and 'cannot inherit from base' in text:  # a dict over None, for one
        key = text.partition('=')[0]
        return (
            f'{key} is a dict here and not in the base: replace the value of the base by '
            f'{key}=dict(_delete_=True, ...)'
        )
    kind = type(error).__name__
    return text if text == kind or isinstance(error, (ConfigError, UnicodeDecodeError)) else f'{kind}: {text}'


def _check_names(file: str, sources: dict[str, ast.Module], cfg: Config) -> None:
    """Refuse a variable of a config file that nothing reads and whose name is close to one that is read.

    Raises:
        ConfigError: With the file, the line and what may be meant.
    """
    if any(isinstance(node, ast.With) for node in sources[file].body):
        return  # read_base() of a lazy config, whose names are those of modules
    names = {path: [n for n in ast.walk(tree) if isinstance(n, ast.Name)] for path, tree in sources.items()}
    known = set(READ_KEYS)
    for path in sources.keys() - {file}:
        known |= {node.id for node in names[path] if isinstance(node.ctx, ast.Store)}
    read = {node.id for node in names[file] if isinstance(node.ctx, ast.Load)}
    for node in names[file]:
        if node.id in known | read | referenced_keys(cfg) or node.id.startswith('_') or node.id not in cfg:
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
        ConfigError: It cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = 'a file is in its place' if isinstance(error, FileExistsError) else error.strerror
        raise ConfigError(
            f'work dir {path} cannot be made: {reason}. Choose another with --work-dir or work_dir'
        ) from error


def choose_work_dir(cfg: Config, given: str | Path | None) -> str:
    """The given work dir, else that of the config, else ``work_dirs/<name of the config>``."""
    return str(given or cfg.get('work_dir') or Path('work_dirs') / Path(cfg.filename or 'config').stem)
