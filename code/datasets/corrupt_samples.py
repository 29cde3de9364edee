"""Samples that were replaced because they could not be used, and their count."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict


class SkippedSample(TypedDict):
    """A sample that was replaced by another one, with the file and the reason."""

    sample_id: str
    path: str
    reason: str


class SkippedSampleTally:
    """Count replaced samples from the `metas` of batches.

    Each worker process sees only its own samples, so the main process counts: pass the `metas` of
    every batch to `update`. `num_skips` counts failed reads, `num_unknown_commands` invalid commands that
    were replaced by "follow lane"; `skipped` has the replaced samples by sample id.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all counts, as at the start of an epoch."""
        self.num_samples = 0
        self.num_skips = 0
        self.num_unknown_commands = 0
        self.skipped: dict[str, SkippedSample] = {}

    def update(self, metas: Iterable[Mapping[str, Any]]) -> None:
        """Add the samples of one batch; datasets that never replace a sample need not say so."""
        for meta in metas:
            self.num_samples += 1
            self.num_unknown_commands += bool(meta.get('command_replaced', False))
            for skip in meta.get('skipped', ()):
                self.num_skips += 1
                self.skipped[skip['sample_id']] = skip

    def examples(self) -> list[str]:
        """Path and reason of up to three unusable files."""
        files = dict.fromkeys(f'{skip["path"]}: {skip["reason"]}' for skip in self.skipped.values())
        return list(files)[:3]

    def summary(self) -> str:
        """Summary in one line, for the log."""
        reads = self.num_samples + self.num_skips
        line = (
            f'{len(self.skipped)} samples could not be read ({self.num_skips} of {reads} reads, '
            f'{self.num_skips / max(reads, 1):.2%})'
        )
        if self.num_unknown_commands:
            line += f', {self.num_unknown_commands} invalid commands replaced by "follow lane"'
        return line

    def write(self, path: str | Path) -> None:
        """Write the replaced samples to a text file, one JSON object per line."""
        lines = (json.dumps(self.skipped[sample_id]) + '\n' for sample_id in sorted(self.skipped))
        Path(path).write_text(''.join(lines))
