"""Unusable samples: their errors, their count, and the limit at which a run stops."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from thinktwice.errors import DamagedDataError

from .storage.errors import SampleReadError


class UnusableSampleError(SampleReadError):
    """A frame can be read but not used, such as one without a heading.

    This is a known gap of the recordings, not damage: the dataset always replaces such a sample,
    whatever its `on_error`.
    """


class SkippedSample(TypedDict):
    """A sample that was replaced by another one, with the file and the reason."""

    sample_id: str
    path: str
    reason: str


class SkippedSampleTally:
    """Count replaced samples from the `metas` of batches.

    Each worker process sees only its own samples, so the main process counts: pass the `metas` of
    every batch to `update`, and call `check` to stop a run with too many unusable samples.

    Args:
        max_share: largest allowed share of replaced samples, 0..1.
        min_samples: number of samples before the share is checked, so that one bad file at the
            start of an epoch does not stop the run.

    Attributes:
        num_samples: number of samples loaded so far.
        num_skips: number of failed reads of samples.
        num_unknown_commands: number of samples whose navigation command was invalid and was
            replaced by "follow lane".
        skipped: replaced samples by sample id.
    """

    def __init__(self, max_share: float = 0.01, min_samples: int = 100) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must be in 0..1, got {max_share}')
        self.max_share = max_share
        self.min_samples = min_samples
        self.reset()

    def reset(self) -> None:
        """Reset all counts, as at the start of an epoch."""
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
        """Share of reads of samples that failed."""
        return self.num_skips / max(self.num_samples + self.num_skips, 1)

    def check(self, is_complete: bool = False) -> None:
        """Raise an error if too many samples are unusable.

        Args:
            is_complete: whether all samples were read; then `min_samples` is ignored.

        Raises:
            DamagedDataError: if the share is above `max_share`; the message names some files.
        """
        is_early = self.num_samples < self.min_samples and not is_complete
        if is_early or self.share <= self.max_share:
            return
        files = dict.fromkeys(f'{skip["path"]}: {skip["reason"]}' for skip in self.skipped.values())
        examples = '; '.join(list(files)[:3])
        raise DamagedDataError(
            f'{self.num_skips} of {self.num_samples + self.num_skips} samples could not be used '
            f'({self.share:.1%}, the limit is {self.max_share:.1%}); for example {examples}. '
            'Check the data with tools/check_dataset.py (--repair excludes damaged frames), or raise '
            'max_share of SkippedSamplesHook'
        )

    def summary(self) -> str:
        """Summary in one line, for the log."""
        line = (
            f'{len(self.skipped)} samples could not be read ({self.num_skips} of '
            f'{self.num_samples + self.num_skips} reads, {self.share:.2%})'
        )
        if self.num_unknown_commands:
            line += f', {self.num_unknown_commands} invalid commands replaced by "follow lane"'
        return line

    def write(self, path: str | Path) -> None:
        """Write the replaced samples to a text file, one JSON object per line."""
        lines = (json.dumps(self.skipped[sample_id]) + '\n' for sample_id in sorted(self.skipped))
        Path(path).write_text(''.join(lines))
