"""Convert a weight file between the official format and ours."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thinktwice.checkpoint.weight_file import WeightFile, read_weights, write_weights
from thinktwice.config.load import load_config
from thinktwice.release_2023.checkpoint.adaptation import NUMERICS_2023
from thinktwice.release_2023.checkpoint.conversion import (
    Conversion,
    build_model,
    derived_entries,
    model_shapes,
    official_to_ours,
    ours_to_official,
)
from thinktwice.release_2023.checkpoint.names import DERIVED_ENTRIES, official_entries

DIRECTIONS = ('ours', 'official')


@dataclass
class Outcome:
    """Result of one conversion.

    Attributes:
        conversion: Translated weights and report.
        direction: ``'ours'`` or ``'official'``, the format converted to.
        written: The file written; None if nothing was.
        dropped: Top-level keys of the source that hold no weights.
    """

    conversion: Conversion
    direction: str
    written: Path | None
    dropped: tuple[str, ...]

    def summary(self) -> str:
        """What was done, for a person."""
        conversion, report = self.conversion, self.conversion.report
        lines = [
            f'converted to {self.direction}: {len(conversion.weights)} entries, '
            f'sparse kernels of the source are [{conversion.layout}]'
        ]
        if report.filled_in:
            lines.append(f'{len(report.filled_in)} batch counters were absent and start from 0')
        lines += [f'kept beside the weights: {name} ({why})' for name, why in report.unused.items()]
        if self.direction == 'official':
            absent = [name for name in official_entries() if name not in conversion.weights]
            if absent:
                lines.append(
                    f'{len(absent)} entries of the official model have no source, such as {absent[0]}'
                )
        if self.dropped:
            lines.append(f'not converted: {", ".join(self.dropped)}')
        if not report.is_complete:
            lines.append(report.table())
            lines.append('nothing was written: the file does not fit the model of the config')
        elif self.written is not None:
            lines.append(f'wrote {self.written}')
            if self.direction == 'official' and self.written.suffix == '.safetensors':
                lines.append(
                    'a safetensors file holds no module versions: the official loader would reorder its '
                    'sparse kernels; write a .pth file for that program'
                )
        return '\n'.join(lines)


def convert_file(
    source: str | Path, target: str | Path | None, config: str | Path, direction: str = 'auto'
) -> Outcome:
    """Read, translate and, where everything fits, write a weight file.

    Args:
        source: File to read.
        target: File to write; None only checks.
        config: Config whose model our side of the weights belongs to.
        direction: ``'ours'``, ``'official'``, or ``'auto'`` to go away from the format
            that the source's names have.

    Returns:
        The outcome; nothing is written if its report is not complete.

    Raises:
        FileNotFoundError: If source or config do not exist.
        ValueError: If the source cannot be read safely, or its direction is unclear.
    """
    if not Path(config).is_file():
        raise FileNotFoundError(f'{config}: no such config')
    file = read_weights(source)
    cfg = load_config(str(config))
    shapes = model_shapes(build_model(cfg, device='meta'))
    if direction == 'auto':
        direction = guess_direction(file.weights, shapes)
    if direction not in DIRECTIONS:
        raise ValueError(f'direction {direction!r}: expected one of {DIRECTIONS} or "auto"')
    if direction == 'ours':
        conversion = official_to_ours(file.weights, shapes, file.versions)
        # an earlier conversion to the official format may have kept entries as well
        conversion.extra = {**file.extra, **conversion.extra}
    else:
        conversion = ours_to_official(file.weights, shapes, {**derived_entries(cfg), **file.extra})
    written = None
    if conversion.report.is_complete and target is not None:
        written = Path(target)
        numerics = NUMERICS_2023 if direction == 'ours' else None
        write_weights(
            written, WeightFile(conversion.weights, conversion.extra, conversion.versions, numerics=numerics)
        )
    return Outcome(conversion, direction, written, file.dropped)


def guess_direction(names: Iterable[str], our_names: Iterable[str]) -> str:
    """Direction that leads away from the format whose names a file has.

    Raises:
        ValueError: If the file's names belong to neither format.
    """
    found = set(names)
    ours = len(found & set(our_names))
    official = len(found & (set(official_entries()) | set(DERIVED_ENTRIES)))
    if not ours and not official:
        example = ', '.join(sorted(found)[:3])
        raise ValueError(
            f'none of the {len(found)} names of this file ({example}, ...) belongs to the official model or '
            'to the model of the config; is it a ThinkTwice checkpoint?'
        )
    return 'ours' if official >= ours else 'official'
