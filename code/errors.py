"""Errors that a user can fix: a command shows them as one line, without a traceback."""

import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

INTERRUPTED_EXIT_CODE = 130
"""What shells report for a command that Ctrl-C stopped."""
PREEMPTED_EXIT_CODE = 75
"""EX_TEMPFAIL: the run was stopped by a signal, its state is saved, and it can be resumed."""
TRACEBACK_VARIABLE = 'THINKTWICE_TRACEBACK'
FILE_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Built-in errors about files that a command shows as one line, too."""
MOST_CHARACTERS = 500
"""Of the message of an error that was not written for users; some hold whole configs."""
OF_WORKER = 'Original Traceback'
"""In the message of an error that torch raises for one of a loader worker."""
PACKAGE = os.path.dirname(__file__)
INSTALLED = (PACKAGE, *(sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib')))
"""Beginnings of the names of files that are not a user's own code."""
NO_SUCH_PART = re.compile(r"'?(\S+) is not in the \S+?::(.+?) registry")
"""Message of mmengine for a name that another registry has."""


class UserError(Exception):
    """Base of the errors that a command shows as one line; anything else keeps its traceback."""


class ConfigError(UserError, ValueError):
    """A config file, a key of it or an override from the command line is wrong."""


class LaunchError(UserError, RuntimeError):
    """The ranks of a distributed run can't be started or can't connect to each other."""


class StartError(UserError, RuntimeError):
    """A run failed before its first step or evaluation was done: what it was given does not fit."""


class RankError(UserError, RuntimeError):
    """Another rank has failed, so this one ends too; the log of the other has the cause."""


class DamagedDataError(UserError, RuntimeError):
    """So much of the data can't be read that a run makes no sense; other processes may have read theirs."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is torn, foreign or not to be trusted."""


class WriteError(UserError, OSError):
    """A file cannot be written: the disk is full or permissions are missing."""


class TrainingDivergedError(UserError, RuntimeError):
    """Losses or gradients of several steps in a row, or the results of an evaluation, are not finite."""


class RunPreempted(Exception):  # noqa: N818  a state of the run, not an error
    """A signal stopped training; the state is saved, and ``--resume`` continues."""


def traceback_is_wanted() -> bool:
    """Whether the environment variable ``THINKTWICE_TRACEBACK`` is 1."""
    return os.environ.get(TRACEBACK_VARIABLE) == '1'


def describe(error: BaseException) -> str:
    """Message of an error in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f'{error.strerror}: {error.filename}' if error.filename else error.strerror
    elif isinstance(error, KeyError) and error.args and ' ' not in str(error.args[0]):  # no message
        text = f'the key {error.args[0]!r} is missing'
    elif isinstance(error, UnicodeDecodeError):
        text = f'not {error.encoding.upper()} text'
    elif isinstance(error, RecursionError) and 'JSON' in text:
        text = 'nested too deeply'
    return ' '.join(str(text).split()) or type(error).__name__


@contextmanager
def as_config_error(where: str = '', config: Any = None) -> Iterator[None]:
    """Convert what building from a config raises: the cause is the config or the data.

    Args:
        where: Dotted key of the config that is built, put in front of the message.
        config: The whole config, in which the part that failed is looked for: its key is more exact.

    Raises:
        ConfigError: For errors that follow from the config.
        StartError: For errors that one rank alone may have.
    """
    try:
        yield
    except (ConfigError, *FILE_ERRORS) as error:
        raise ConfigError(_join(where, describe(error))) from error
    except UserError:
        raise
    except Exception as error:
        if _keeps_traceback(error):
            raise
        is_of_rank = isinstance(error, (RuntimeError, MemoryError)) and type(error) is not NotImplementedError
        raise (StartError if is_of_rank else ConfigError)(_building_failed(error, where, config)) from error


@contextmanager
def as_user_error(kind: type[UserError], where: Callable[[], str | None]) -> Iterator[None]:
    """Convert what fails where config, data or checkpoint are used for the first time.

    Args:
        kind: Error to raise.
        where: Says at the time of an error what failed; None leaves the error as it is.

    Raises:
        UserError: Of the given kind.
    """
    try:
        yield
    except (UserError, *FILE_ERRORS):
        raise
    except Exception as error:
        place = where()
        if place is None or _keeps_traceback(error):
            raise
        raise kind(_join(place, _reason(error))) from error


def _keeps_traceback(error: BaseException | None) -> bool:
    """Whether the traceback of an error is wanted: it passed through a user's own code, or always.

    An error of a connection is left to those who know the other ranks.
    """
    if traceback_is_wanted() or type(error).__module__.startswith('torch.distributed'):
        return True
    while error is not None:
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        if OF_WORKER in str(error):
            files += re.findall(r'File "(.+?)", line', str(error))
        # what is compiled, or made by exec, names files that do not exist
        if any(os.path.exists(file) and not file.startswith(INSTALLED) for file in files):
            return True
        error = error.__cause__ or error.__context__
    return False


def _join(*texts: str) -> str:
    return ': '.join(filter(None, texts))


def _building_failed(error: Exception, where: str, config: Any) -> str:
    """Key and class of the part that could not be built, and why, in one line."""
    parts = [
        frame.f_locals['cfg']
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == 'build_from_cfg' and isinstance(frame.f_locals['cfg'], dict)
    ]
    if not parts:
        return _join(where, _reason(error))
    # an inner part may have been completed before it was built: then the key is that of an outer one
    keys = chain.from_iterable(_keys_of(part, config) for part in reversed(parts))
    place = next((key for key in keys if key.startswith(where)), where)
    if 'type' not in parts[-1]:
        return _join(place, f'{dict(parts[-1])} names no class: set its key type')
    name = str(getattr(parts[-1]['type'], '__name__', parts[-1]['type']))
    reason = _reason(error, line=False)
    if match := NO_SUCH_PART.match(reason):
        return _join(place, f'there is no {match[2]} called {match[1]!r}')
    call = rf'({name.rpartition(".")[2]}\.__init__\(\) )?missing .*?: '
    if match := re.match(rf'{call}(.+) \(TypeError', reason):
        return _join(place, f'{name} needs the argument {match[2]}')
    if _is_written_here(error):
        return _join(place, '' if reason.startswith(f'{name}: ') else name, reason)
    return _join(place, f'{name} cannot be built', reason)


def _keys_of(part: dict, node: Any, key: str = '') -> Iterator[str]:
    """Dotted keys under which a config has a part."""
    if isinstance(node, dict) and str(node) == str(part):
        yield key
    is_list = isinstance(node, (list, tuple))
    items: Iterable[tuple[Any, Any]] = enumerate(node) if is_list else getattr(node, 'items', tuple)()
    for name, value in items:
        yield from _keys_of(part, value, f'{key}.{name}'.lstrip('.'))


def _is_written_here(error: BaseException) -> bool:
    """Whether a statement of this package raised an error, so that its message is written for users."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(PACKAGE) and (last.line or '').startswith('raise ')


def _reason(error: BaseException, line: bool = True) -> str:
    """Message of an error in one line, with kind and place of one that is not written for users."""
    if _is_written_here(error):
        return describe(error)
    name, text = type(error).__name__, describe(error)
    summary = traceback.extract_tb(error.__traceback__)
    if OF_WORKER in str(error):
        name, _, text = str(error).strip().splitlines()[-1].partition(': ')
    elif not str(error):
        text = summary[-1].line or ''  # the condition of an assertion
    ours = [frame for frame in summary if frame.filename.startswith(PACKAGE) and frame.filename != __file__]
    if line and ours:
        name += f' in {os.path.relpath(ours[-1].filename, PACKAGE)}, line {ours[-1].lineno}'
    return f'{text[:MOST_CHARACTERS]} ({name}; {TRACEBACK_VARIABLE}=1 shows the traceback)'
