"""Errors that a user can mend: shown as one line at the command line, without a traceback."""

INTERRUPTED_EXIT_CODE = 130
"""What shells give a command that Ctrl-C stopped."""


class UserError(Exception):
    """Base of the errors that a command shows as one line; anything else keeps its traceback."""


class ConfigError(UserError, ValueError):
    """A config file, a key of it or an override from the command line is wrong."""


class LaunchError(UserError, RuntimeError):
    """The processes of a distributed run can't be started or can't find each other."""


class DamagedDataError(UserError, RuntimeError):
    """So much of the data can't be read that a run makes no sense; other processes may have read theirs."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is torn, foreign or not to be trusted."""


class WriteError(UserError, OSError):
    """A file cannot be written: the disk is full or permissions are missing."""


class TrainingDivergedError(UserError, RuntimeError):
    """Losses or gradients of several steps in a row, or the results of an evaluation, are not finite."""
