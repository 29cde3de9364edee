"""What happens to samples that can't be used: naming them, counting them, stopping in time."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from thinktwice.errors import DamagedDataError

from .storage.errors import SampleReadError


class UnusableSampleError(SampleReadError):
    """A frame reads well but can't be used, such as one without a heading.

    Known gaps of the recordings, not damage: the dataset replaces such a sample under either
    policy, where damage stops the run unless the policy is to skip.
    """


class SkippedSample(TypedDict):
    """Why a sample was replaced by another one."""

    sample_id: str
    path: str
    reason: str


class SkippedSampleTally:
    """Counts replaced samples from the `metas` of batches.

    Worker processes see only their own share, so the count is kept where the batches arrive:
    give every batch's `metas` to `update` and call `check` when the run should stop in time.

    Args:
        max_share: largest tolerated share of replaced samples, 0 .. 1.
        min_samples: no verdict before this many samples were read, so that one bad file at the
            start of an epoch does not count as everything.

    Attributes:
        num_samples: samples delivered so far.
        num_skips: reads of samples that failed.
        num_unknown_commands: samples whose navigation command was out of range and taken as
            "follow the lane".
        skipped: replaced samples by sample id.
    """

    def __init__(self, max_share: float = 0.01, min_samples: int = 100) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must lie in 0..1, got {max_share}')
        self.max_share = max_share
        self.min_samples = min_samples
        self.reset()

    def reset(self) -> None:
        """Forget all counts, as at the start of an epoch."""
        self.num_samples = 0
        self.num_skips = 0
        self.num_unknown_commands = 0
        self.skipped: dict[str, SkippedSample] = {}

    def update(self, metas: Iterable[Mapping[str, Any]]) -> None:
        """Add the samples of one batch."""
        for meta in metas:
            self.num_samples += 1
            self.num_unknown_commands += bool(meta['command_replaced'])
            for skip in meta['skipped']:
                self.num_skips += 1
                self.skipped[skip['sample_id']] = skip

    @property
    def share(self) -> float:
        """Failed reads of samples over all reads of samples."""
        return self.num_skips / max(self.num_samples + self.num_skips, 1)

    def check(self, is_complete: bool = False) -> None:
        """Stop a run that reads too many unusable samples.

        Args:
            is_complete: whether all samples were read, so that `min_samples` need not be reached.

        Raises:
            DamagedDataError: if their share is above `max_share`; the message names some files.
        """
        is_early = self.num_samples < self.min_samples and not is_complete
        if is_early or self.share <= self.max_share:
            return
        examples = '; '.join(f'{skip["path"]}: {skip["reason"]}' for skip in list(self.skipped.values())[:3])
        raise DamagedDataError(
            f'{self.num_skips} of {self.num_samples + self.num_skips} samples could not be used '
            f'({self.share:.1%}, more than the tolerated {self.max_share:.1%}); for example {examples}. '
            'Check the data with tools/check_dataset.py (--repair keeps damaged frames out), or raise '
            'max_share of SkippedSamplesHook'
        )

    def summary(self) -> str:
        """One line for the log."""
        line = (
            f'{len(self.skipped)} samples could not be read ({self.num_skips} of '
            f'{self.num_samples + self.num_skips} reads, {self.share:.2%})'
        )
        if self.num_unknown_commands:
            line += f', {self.num_unknown_commands} unknown commands taken as "follow the lane"'
        return line

    def write(self, path: str | Path) -> None:
        """List the replaced samples in a text file, one JSON object a line."""
        lines = (json.dumps(self.skipped[sample_id]) + '\n' for sample_id in sorted(self.skipped))
        Path(path).write_text(''.join(lines))
