"""What all commands share: flags, overrides of a config, exit codes and messages.

A command is a function ``main(argv) -> int`` that is run by :func:`run_command`. Exit codes:
0 success, 1 the command failed or found what it looks for, 2 wrong usage, 75 stopped by a
signal and resumable, 130 Ctrl-C. Only the standard library is imported here, so that
``--help`` is fast and the environment is checked before anything heavy is imported.
"""

import argparse
import ast
import logging
import os
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from thinktwice.distributed.ranks import LAUNCHERS, STARTED_VARIABLE, process_names
from thinktwice.environment import check_environment
from thinktwice.errors import (
    FILE_ERRORS,
    INTERRUPTED_EXIT_CODE,
    PREEMPTED_EXIT_CODE,
    ConfigError,
    RunPreempted,
    UserError,
    describe,
    traceback_is_wanted,
)

USAGE_EXIT_CODE = 2


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that keeps the line breaks of its description and reports misuse in one line."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        options.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the arguments and exit with code 2."""
        _print_error(f'{message} (see --help)', once_per_machine=True)
        raise SystemExit(USAGE_EXIT_CODE)


def positive(text: str) -> int:
    """Type of a flag: a whole number from 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Type of a flag: a whole number from 0."""
    return _at_least(0, text)


def _at_least(smallest: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f'must be a whole number from {smallest}, got {text!r}')
    return number


class OverrideText(str):
    """Value of ``KEY=VALUE`` as typed; how it is read depends on the entry that it replaces."""


class OverrideAction(argparse.Action):
    """Collects ``KEY=VALUE`` pairs in a dict of ``OverrideText``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to those of the namespace.

        Raises:
            ArgumentError: A pair has no key or no ``=``, or its brackets do not match.
        """
        options = dict(getattr(namespace, self.dest, None) or {})
        for pair in values:
            key, separator, text = pair.partition('=')
            if not separator or not key:
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {pair!r}')
            try:
                parse_value(text)
            except ValueError as error:
                raise argparse.ArgumentError(self, f'{pair}: {error}') from error
            options[key] = OverrideText(text)
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """Read a value as OpenMMLab's command lines do.

    ``1,2`` and ``[1,2]`` are lists, ``(1,2)`` a tuple, ``None``, ``True`` and ``False`` what they
    are in Python, and anything else is text. In quotes, ``'05'`` is text and not the number 5.

    Raises:
        ValueError: Brackets do not match.
    """
    if "'" in text or '"' in text:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass  # quotes inside plain text
    return _parse_items(text.strip('\'"'))


def _parse_items(text: str) -> Any:
    text = text.strip()
    is_bracketed = (text[:1], text[-1:]) in (('(', ')'), ('[', ']'))
    items = _split(text) if ',' in text or is_bracketed else [text]
    if len(items) > 1:
        return [_parse_items(item) for item in items if item]
    if not is_bracketed:
        return _parse_scalar(text)
    values = [_parse_items(item) for item in _split(text[1:-1]) if item]
    return tuple(values) if text[0] == '(' else values


def _split(text: str) -> list[str]:
    """Parts between the commas that lie outside brackets."""
    items, depth = [''], 0
    for character in text:
        depth += (character in '([') - (character in ')]')
        if depth < 0:
            break
        if character == ',' and depth == 0:
            items.append('')
        else:
            items[-1] += character
    if depth:
        raise ValueError('brackets do not match')
    return items


def _parse_scalar(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def add_override_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OverrideAction,
        default={},
        metavar='KEY=VALUE',
        help='override entries of the config, e.g. optim_wrapper.optimizer.lr=2e-4 is_dev=True',
    )


def add_sample_flags(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the flags that choose samples of a dataset; see :func:`choose_samples`.

    Args:
        parser: Where to add them.
        split: Default of ``--split``.
    """
    parser.add_argument('--split', choices=('train', 'val', 'test'), default=split, help='split to draw')
    parser.add_argument('--data-root', help="use this dataset instead of the config's, recorded or packed")
    parser.add_argument('--index', type=int, nargs='+', help='indices of the samples to draw')
    parser.add_argument('--random', type=positive, default=4, metavar='N', help='draw N random samples')
    parser.add_argument('--seed', type=natural, default=0, help='seed of the random choice')


def choose_samples(options: argparse.Namespace, length: int) -> list[int]:
    """Indices of the samples that the flags choose.

    Args:
        options: Values of the flags of :func:`add_sample_flags`.
        length: Length of the dataset.

    Raises:
        ConfigError: There is no sample of an index.
    """
    if options.index is None:
        count = min(options.random, length)
        return sorted(random.Random(options.seed).sample(range(length), count))
    for index in options.index:
        if not 0 <= index < length:
            raise ConfigError(f'--index {index}: the dataset has samples 0 to {length - 1}')
    return options.index


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints; takes precedence over work_dir of the config; '
        'default: work_dirs/<name of the config>',
    )
    add_override_flag(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how the ranks were started')
    # torch.distributed.launch passes --local-rank=N (before the config), torchrun sets LOCAL_RANK only
    parser.add_argument(
        '--local-rank', '--local_rank', action=_LocalRank, type=int, help='set by torch.distributed.launch'
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold pickled objects other than data; this can run code of their author',
    )


class _LocalRank(argparse.Action):
    """Passes the local rank on in the environment, where the launchers of all kinds are read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))


def run_command(
    command: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Check the environment and run a command; an error that the user can fix becomes one line.

    Set the environment variable ``THINKTWICE_TRACEBACK=1`` for the traceback.

    Args:
        command: Takes the arguments, returns an exit code or None.
        argv: Arguments, None for those of the process.

    Returns:
        The exit code.
    """
    try:
        check_environment()
        _check_encoding([*(sys.argv[1:] if argv is None else argv), os.getcwd()])
        return command(argv) or 0
    except BaseException as error:
        if interrupt := find_interrupt(error):
            return _report_interrupt(interrupt)
        if isinstance(error, RunPreempted):
            return PREEMPTED_EXIT_CODE
        if isinstance(error, (UserError, *FILE_ERRORS)) or (isinstance(error, OSError) and error.filename):
            return _report(error)
        raise


def _check_encoding(texts: Sequence[str]) -> None:
    """Refuse paths whose bytes Python cannot decode: logs, checkpoints and TensorBoard cannot name them."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{ascii(text)} is not text in the encoding {sys.getfilesystemencoding()} of this locale: '
                'set PYTHONUTF8=1, or rename it'
            ) from error


def find_interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """The Ctrl-C that caused an error; libraries catch it and raise errors of their own."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link


def _report_interrupt(interrupt: KeyboardInterrupt) -> int:
    if traceback_is_wanted():
        traceback.print_exception(interrupt)
    if process_names(os.environ)[0] == '0':
        sys.stderr.write(f'interrupted{f": {interrupt}" if str(interrupt) else ""}\n')
        sys.stderr.flush()
    return INTERRUPTED_EXIT_CODE


def _report(error: BaseException) -> int:
    if traceback_is_wanted():
        traceback.print_exception(error)
    logging.getLogger('thinktwice').debug('command failed', exc_info=error)
    # what is wrong with the config, or with files before the start, is wrong for all ranks of a machine;
    # later each rank reads and writes files of its own
    has_started = STARTED_VARIABLE in os.environ
    once = isinstance(error, ConfigError) or (isinstance(error, OSError) and not has_started)
    _print_error(describe(error), once_per_machine=once)
    return 1


def _print_error(message: str, once_per_machine: bool) -> None:
    rank, local_rank = process_names(os.environ)
    if local_rank == '0' or not once_per_machine:
        place = f' (rank {rank})' if rank != '0' else ''
        sys.stderr.write(f'error{place}: {message}\n')
        sys.stderr.flush()
