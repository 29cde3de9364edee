"""Types of command-line flags that hold numbers."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: It is not; argparse adds the name of the flag.
    """
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0.

    Raises:
        ArgumentTypeError: It is not; argparse adds the name of the flag.
    """
    return _at_least(0, text)


def _at_least(smallest: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f'must be a whole number from {smallest}, got {text!r}')
    return number
