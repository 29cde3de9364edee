"""The error of an unusable file of a dataset."""

from thinktwice.errors import UserError


class SampleReadError(UserError, RuntimeError):
    """A file of a dataset cannot be used.

    Whatever goes wrong in reading (a missing file, a truncated PNG, a pickle that calls functions, an
    infinite value) is raised as this error, which is what ``on_error`` of the dataset handles.

    Args:
        path: The file.
        reason: What is wrong with it.
        missing: Whether the file does not exist, as opposed to being unusable.

    Attributes:
        path: See above.
        reason: See above.
        missing: See above.
    """

    def __init__(self, path: str, reason: str, missing: bool = False) -> None:
        super().__init__(f'{path}: {reason}')
        self.path = path
        self.reason = reason
        self.missing = missing

    def __reduce__(self) -> tuple:
        """Pickle the arguments: the error is sent from worker processes."""
        return type(self), (self.path, self.reason, self.missing)
