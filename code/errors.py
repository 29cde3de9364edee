"""Errors that a user can fix: a command shows them as one line, without a traceback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED_EXIT_CODE = 130
"""What shells report for a command that Ctrl-C stopped."""
PREEMPTED_EXIT_CODE = 75
"""EX_TEMPFAIL: the run was stopped by a signal, its state is saved, and it can be resumed."""
TRACEBACK_VARIABLE = 'THINKTWICE_TRACEBACK'
FILE_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Built-in errors about files that a command shows as one line, too."""


class UserError(Exception):
    """Base of the errors that a command shows as one line; anything else keeps its traceback."""


class ConfigError(UserError, ValueError):
    """A config file, a key of it or an override from the command line is wrong."""


class LaunchError(UserError, RuntimeError):
    """The ranks of a distributed run can't be started or can't connect to each other."""


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
    """Convert what building from a config commonly raises: the cause is the config or the data.

    Args:
        where: Key of the config that is built, put in front of the message.

    Raises:
        ConfigError: For any of the usual errors.
    """
    place = f'{where}: ' if where else ''
    try:
        yield
    except (ConfigError, *FILE_ERRORS) as error:
        raise ConfigError(f'{place}{describe(error)}') from error
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, ImportError, NotImplementedError, AssertionError) as error:
        if traceback_is_wanted():
            raise
        raise ConfigError(
            f'{place}{type(error).__name__}: {describe(error)} (set {TRACEBACK_VARIABLE}=1 for the traceback)'
        ) from error
