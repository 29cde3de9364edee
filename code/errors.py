"""Errors that a user can fix: a command shows them as one line, without a traceback."""

import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f'{error.strerror}: {error.filename}'
    return ' '.join(text.split()) or type(error).__name__


@contextmanager
def as_config_error(where: str = '') -> Iterator[None]:
    """Convert what building from a config raises: the cause is the config or the data.

    Args:
        where: Key of the config that is built, put in front of the message.

    Raises:
        ConfigError: For errors that follow from the config.
        StartError: For errors that one rank alone may have.
    """
    place = f'{where}: ' if where else ''
    try:
        yield
    except (ConfigError, *FILE_ERRORS) as error:
        raise ConfigError(f'{place}{describe(error)}') from error
    except UserError:
        raise
    except Exception as error:
        if _keeps_traceback(error):
            raise
        is_of_rank = isinstance(error, (RuntimeError, MemoryError)) and type(error) is not NotImplementedError
        raise (StartError if is_of_rank else ConfigError)(place + _cause(error)) from error


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
        raise kind(f'{place}: {_cause(error)}') from error


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


def _cause(error: BaseException) -> str:
    """Kind and message of an error in one line, the part of the config and the line that it came from."""
    name, text = type(error).__name__, describe(error)
    summary = traceback.extract_tb(error.__traceback__)
    if OF_WORKER in str(error):
        name, _, text = str(error).strip().splitlines()[-1].partition(': ')
    elif not str(error):
        text = summary[-1].line or ''  # the condition of an assertion
    part = line = ''
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if frame.f_code.co_name == 'build_from_cfg':  # mmengine's messages do not name the part
            cfg = frame.f_locals['cfg']
            if isinstance(cfg, dict) and 'type' not in cfg:
                name, text = 'no type', f'{dict(cfg)} names no class: set its key type'
            else:
                part = f' in {cfg.get("type")}'
        if file.startswith(PACKAGE) and file != __file__:
            line = f'{os.path.relpath(file, PACKAGE)}, line {number}, '
    return f'{name}: {text[:MOST_CHARACTERS]}{part} ({line}{TRACEBACK_VARIABLE}=1 shows the traceback)'
