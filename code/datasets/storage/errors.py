"""The error of an unusable file of a dataset, and the names that are safe to use in a path."""

import re
from typing import Any

from thinktwice.errors import UserError

_SAFE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+-]*')


class SampleReadError(UserError, RuntimeError):
    """A file of a dataset cannot be used.

    Whatever goes wrong in reading (a missing file, a truncated PNG, a pickle that calls functions, an
    infinite value) is raised as this error, which is what ``on_error`` of the dataset handles.

    Attributes:
        path: The file.
        reason: What is wrong with it.
        missing: Whether the file does not exist, as opposed to being unusable.
    """

    def __init__(self, path: str, reason: str, missing: bool = False) -> None:
        super().__init__(f'{path}: {reason}')
        self.path, self.reason, self.missing = path, reason, missing

    def __reduce__(self) -> tuple:
        """Pickle the arguments: the error is sent from worker processes."""
        return type(self), (self.path, self.reason, self.missing)


class UnusableSampleError(SampleReadError):
    """A frame can be read but not used, such as one without a heading.

    This is a known gap of the recordings, not damage: the dataset always replaces such a sample,
    whatever its ``on_error``.
    """


def check_name(name: Any, what: str) -> str:
    """Return the name of a file or folder unless it could lead out of the dataset.

    Args:
        name: Perhaps from a metadata file.
        what: What it names, for the message.

    Raises:
        SampleReadError: It holds anything but letters, digits and ``_.+-``, or ``..``.
    """
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or '..' in name:
        raise SampleReadError(
            repr(name), f'refused as the name of a {what}: it could lead out of the dataset'
        )
    return name
