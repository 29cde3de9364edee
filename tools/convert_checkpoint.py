r"""Convert weights between the official 2023 checkpoint and this framework.

The format of the names in the file decides the direction. If the weights do not fit the
config's model, a table tells what differs, nothing is written, and the exit code is 1.

Examples:
    python tools/convert_checkpoint.py thinktwice.pth ckpt/thinktwice_reference.pth
    python tools/convert_checkpoint.py thinktwice.pth ckpt/thinktwice.safetensors
    python tools/convert_checkpoint.py work_dirs/run/epoch_60.pth official.pth --to official \
        --config configs/thinktwice.py
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, run_command

if TYPE_CHECKING:
    from thinktwice.release_2023.checkpoint.conversion import Conversion

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` describes it."""
    parser = Parser(__doc__)
    parser.add_argument('source', type=Path, help='.pth or .safetensors file to read')
    parser.add_argument(
        'target', type=Path, nargs='?', help='file to write, in the format of its suffix; none: check only'
    )
    parser.add_argument(
        '--config',
        type=Path,
        default=ROOT / 'configs' / 'thinktwice_reference.py',
        help="config of the model on this framework's side",
    )
    parser.add_argument(
        '--to',
        choices=('auto', 'ours', 'official'),
        default='auto',
        help='format to convert to; auto: the one that the names in the file are not of',
    )
    parser.add_argument('--force', action='store_true', help='replace an existing target')
    return parser.parse_args(argv)


def summary(conversion: 'Conversion', target: Path | None) -> str:
    """What was converted and what was written."""
    from thinktwice.release_2023.checkpoint.names import official_entries

    lines = [
        f'converted to {conversion.direction}: {len(conversion.weights)} entries, '
        f'sparse kernels of the source are [{conversion.layout}]'
    ]
    if conversion.filled_in:
        lines.append(f'{len(conversion.filled_in)} batch counters were missing and start from 0')
    lines += [f'kept beside the weights: {name} ({reason})' for name, reason in conversion.unused.items()]
    if conversion.direction == 'official':
        missing = [name for name in official_entries() if name not in conversion.weights]
        if missing:
            lines.append(f'{len(missing)} entries of the official model are missing, such as {missing[0]}')
    if conversion.dropped:
        lines.append(f'not converted: {", ".join(conversion.dropped)}')
    if not conversion.is_complete:
        lines.append(conversion.differences())
        lines.append('nothing was written: the weights do not fit the model of the config')
    elif target is not None:
        lines.append(f'wrote {target}')
        if conversion.direction == 'official' and target.suffix == '.safetensors':
            lines.append(
                'a safetensors file holds no module versions: the official loader would reorder its '
                'sparse kernels; write a .pth file for it'
            )
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file.

    Args:
        argv: Arguments, None for those of the process.

    Returns:
        0, or 1 if the file does not fit the config's model.
    """
    arguments = parse_arguments(argv)
    if arguments.target is not None and arguments.target.exists() and not arguments.force:
        raise FileExistsError(f'{arguments.target} exists; give another name or --force')
    from thinktwice.release_2023.checkpoint.conversion import convert_file

    conversion = convert_file(arguments.source, arguments.target, arguments.config, arguments.to)
    print(summary(conversion, arguments.target))
    if conversion.is_complete:
        return 0
    print(f'compared with {arguments.config}; the config of another model is given by --config')
    return 1


if __name__ == '__main__':
    sys.exit(run_command(main))
