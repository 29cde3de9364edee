"""The one error that a broken or hostile file of a dataset raises."""

from thinktwice.errors import UserError


class SampleReadError(UserError, RuntimeError):
    """A file of a dataset can't be used.

    Every reader of this package turns whatever goes wrong (a missing file, a
    truncated PNG, a pickle that asks for code, an infinite value) into this
    error, so that the policy for corrupt samples has one thing to catch.

    Args:
        path (str): The file, as it was asked for.
        reason (str): What is wrong with it.
        missing (bool): Whether the file does not exist, as opposed to being
            there and unusable.

    Attributes:
        path (str): See above.
        reason (str): See above.
        missing (bool): See above.
    """

    def __init__(self, path: str, reason: str, missing: bool = False) -> None:
        super().__init__(f'{path}: {reason}')
        self.path = path
        self.reason = reason
        self.missing = missing

    def __reduce__(self) -> tuple:
        """Let the error travel from a worker process to the main one."""
        return type(self), (self.path, self.reason, self.missing)
