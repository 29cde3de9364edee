"""Flags of ``train.py`` and ``tools/test.py``, and how errors reach the user."""

import argparse
import ast
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import DictAction

from thinktwice.distributed.ranks import LAUNCHERS, STARTED_VARIABLE, process_names
from thinktwice.errors import INTERRUPTED_EXIT_CODE, ConfigError, UserError

TRACEBACK_VARIABLE = 'THINKTWICE_TRACEBACK'
USER_ERRORS = (
    UserError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class KeyValueAction(DictAction):
    """mmengine's ``DictAction`` that refuses what it can't split, and keeps text that is in quotes.

    ``indices=['05']`` is a name; without quotes it is the number 5.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to those of the namespace; ``argparse`` shows an ``ArgumentError`` in one line."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for pair in values:
            key, separator, text = pair.partition('=')
            if not separator or not key:
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {pair!r}')
            try:
                options[key] = _parse_value(text)
            except AssertionError as error:
                raise argparse.ArgumentError(self, f'{pair}: {error}') from error
        setattr(namespace, self.dest, options)


def _parse_value(text: str) -> Any:
    if "'" in text or '"' in text:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass  # quotes inside of free text
    return DictAction._parse_iterable(text)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command over a config has."""
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints; wins over work_dir of the config; '
        'default work_dirs/<name of the config>',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='override entries of the config, e.g. optim_wrapper.optimizer.lr=2e-4 is_dev=True',
    )
    parser.add_argument(
        '--options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='deprecated name of --cfg-options',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='how the processes were started'
    )
    # torch.distributed.launch passes --local-rank=N (before the config); torchrun only LOCAL_RANK
    parser.add_argument('--local-rank', '--local_rank', type=int, help='set by torch.distributed.launch')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='open checkpoints that hold more than data; this runs code of their author',
    )


def take_common_flags(arguments: argparse.Namespace) -> None:
    """Settle deprecated names and the local rank, in place.

    Raises:
        ConfigError: ``--options`` and ``--cfg-options`` are both given.
    """
    if arguments.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(arguments.local_rank))
    if arguments.options:
        if arguments.cfg_options:
            raise ConfigError('--options is the deprecated name of --cfg-options; give only --cfg-options')
        warn_deprecated('--options is deprecated; use --cfg-options')
        arguments.cfg_options = arguments.options


def warn_deprecated(message: str) -> None:
    """Warn on the command line; shown once, whatever the warning filters."""
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.warn(message, FutureWarning, stacklevel=3)


def run_command(
    command: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Run a command; an error that the user can mend becomes one line and exit code 1, Ctrl-C one and 130.

    Set the environment variable ``THINKTWICE_TRACEBACK=1`` for the traceback.

    Args:
        command: Takes the arguments, returns an exit code or None.
        argv: Arguments, None for those of the process.

    Returns:
        The exit code.
    """
    try:
        return command(argv) or 0
    except BaseException as error:
        if stop := interruption_behind(error):
            return report_interrupt(stop)
        if isinstance(error, USER_ERRORS):
            return report(error)
        raise


def interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The Ctrl-C that an error comes from; mmengine for one catches it and raises what it likes."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link


def report_interrupt(stop: KeyboardInterrupt) -> int:
    """Say in one line that Ctrl-C stopped the command, and what ``stop`` adds; returns the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE) == '1':
        traceback.print_exception(stop)
    if process_names(os.environ)[0] == '0':
        sys.stderr.write(f'interrupted{f": {stop}" if str(stop) else ""}\n')
        sys.stderr.flush()
    return INTERRUPTED_EXIT_CODE


def report(error: BaseException) -> int:
    """Print an error as one line; returns the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE) == '1':
        traceback.print_exception(error)
    logging.getLogger('thinktwice').debug('command failed', exc_info=error)
    rank, local_rank = process_names(os.environ)
    # what is wrong with the config, or with files before the start, is wrong for all processes of a machine:
    # one of them says it; later each writes and reads files of its own
    has_started = STARTED_VARIABLE in os.environ
    is_of_all = isinstance(error, ConfigError) or (isinstance(error, OSError) and not has_started)
    if local_rank == '0' or not is_of_all:
        place = f' (rank {rank})' if rank != '0' else ''
        sys.stderr.write(f'error{place}: {describe(error)}\n')
        sys.stderr.flush()
    return 1


def describe(error: BaseException) -> str:
    """Message of an error in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f'{error.strerror}: {error.filename}'
    return ' '.join(text.split()) or type(error).__name__


def setup_phase(build: Callable[[], Any]) -> Any:
    """Run the assembly of a run; errors in it come from the config or the data, so they become one line.

    Raises:
        ConfigError: Whatever of the usual errors building raised.
    """
    try:
        return build()
    except USER_ERRORS:
        raise
    except (ValueError, TypeError, KeyError, ImportError, NotImplementedError, AssertionError) as error:
        if os.environ.get(TRACEBACK_VARIABLE) == '1':
            raise
        raise ConfigError(
            f'{type(error).__name__}: {describe(error)} (set {TRACEBACK_VARIABLE}=1 for the traceback)'
        ) from error
