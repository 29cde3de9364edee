r"""Compare the reference config with stored values of the official 2023 model.

The model is filled with deterministic weights and run in evaluation mode on one
deterministic batch; outputs, losses and gradients must lie within the tolerance of
the stored values, relative to each entry's largest magnitude. Exit code 0: all agree,
1: some do not, or the comparison could not be made.

Example:
    python tools/check_parity.py tests/data/parity_seed0_128x256.npz --seed 0 \
        --height 128 --width 256 --batch-size 1 --num-points 6000
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thinktwice.command_line import Parser, run_command
from thinktwice.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument('golden', type=Path, help='stored values (.npz)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the batch')
    parser.add_argument('--height', type=int, default=128, help='image rows, pixels')
    parser.add_argument('--width', type=int, default=256, help='image columns, pixels')
    parser.add_argument('--batch-size', type=int, default=1, help='samples in the batch')
    parser.add_argument('--num-points', type=int, default=6000, help='LiDAR points per sample')
    parser.add_argument('--tolerance', type=float, default=1e-3, help='allowed relative error')
    parser.add_argument('--worst', type=int, default=12, help='how many entries to print')
    parser.add_argument('--device', default='cpu', help='where the model runs')
    parser.add_argument(
        '--config', type=Path, default=ROOT / 'configs' / 'thinktwice_reference.py', help='model to check'
    )
    parser.add_argument(
        '--make-inputs',
        type=Path,
        metavar='FILE',
        help='Python file whose fill_weights(shapes) and make_batch(seed, ...) replace the built-in '
        'generator; it is executed, give only a file you trust',
    )
    return parser.parse_args(argv)


def load_generator(path: Path | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions that make weights and a batch: built in, or those of a user's file."""
    if path is None:
        from thinktwice.release_2023.parity import deterministic_batch, deterministic_weights

        return deterministic_weights, deterministic_batch
    if not path.is_file():
        raise FileNotFoundError(f'--make-inputs {path}: no such file')
    names = runpy.run_path(str(path))
    for function in ('fill_weights', 'make_batch'):
        if not callable(names.get(function)):
            raise UserError(f'--make-inputs {path}: defines no function {function}()')
    return names['fill_weights'], names['make_batch']


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print the worst entries; see the module's docstring for the exit codes."""
    args = parse_arguments(argv)
    import numpy as np
    import torch

    from thinktwice.apis import init_model
    from thinktwice.release_2023.parity import compare, fill_model, relative_gradient_errors, run_batch
    from thinktwice.tables import format_table

    if not args.golden.is_file():
        raise FileNotFoundError(f'{args.golden}: no such file of stored values')
    fill_weights, make_batch = load_generator(args.make_inputs)
    # sums over several threads change in their last bits from run to run
    torch.set_num_threads(1)
    with np.load(args.golden, allow_pickle=False) as file:
        stored = dict(file)
    model = fill_model(init_model(args.config, device=args.device), fill_weights)
    batch = make_batch(
        args.seed,
        batch_size=args.batch_size,
        height=args.height,
        width=args.width,
        num_points=args.num_points,
    )
    computed = run_batch(model, batch)
    deviations = compare(stored, computed)
    failed = [deviation for deviation in deviations if not deviation.error <= args.tolerance]
    shown = deviations[: max(args.worst, len(failed))]
    print(f'{len(deviations)} entries compared, the largest errors:')
    print(format_table(('error', 'entry', ''), [(f'{d.error:.2e}', d.entry, d.detail) for d in shown]))
    gradients = relative_gradient_errors(stored, computed) if 'grad/names' in stored else []
    if gradients:
        print(
            f'{len(gradients)} gradient norms, each relative to itself, the largest errors (not a criterion):'
        )
        print(format_table(('error', 'entry'), [(f'{d.error:.2e}', d.entry) for d in gradients[:5]]))
    if failed:
        print(f'FAILED: {len(failed)} entries beyond {args.tolerance:g}')
        return 1
    print(f'OK: every entry within {args.tolerance:g}')
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
