"""Train the town's driving teacher, whose feature maps are recorded as supervision.

The expert drives simulated routes; a small network learns its control and the value from the BEV masks
and the speed. Nothing is rendered: about five minutes on two cores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from thinktwice.command_line import Parser, natural, positive, run_command

EXAMPLE = 'example: python tools/train_teacher.py teacher_weights.npz'


def main(argv: Sequence[str] | None = None) -> int:
    """Collect, train, evaluate, save."""
    parser = Parser(__doc__, epilog=EXAMPLE)
    parser.add_argument(
        'out',
        type=Path,
        help='file of the weights; the one in use is code/minitown/expert/teacher_weights.npz',
    )
    parser.add_argument('--routes', type=positive, default=100, help='routes of 60 s to learn from')
    parser.add_argument('--epochs', type=positive, default=3, help='passes over them')
    parser.add_argument('--seed', type=natural, default=0, help='of traffic, weights and order')
    arguments = parser.parse_args(argv)
    import numpy as np

    from thinktwice.files import write_atomically
    from thinktwice.minitown.recording.teacher_training import (
        HELD_OUT_TOWNS,
        TRAINING_TOWNS,
        collect,
        explained,
        train,
    )

    examples = collect(TRAINING_TOWNS, arguments.routes, 1000 + arguments.seed)
    print(f'{len(examples)} moments of {arguments.routes} routes', flush=True)

    def report(epoch: int, loss: float) -> None:
        print(f'epoch {epoch} of {arguments.epochs}: loss {loss:.4f}', flush=True)

    model = train(examples, arguments.epochs, arguments.seed, report)
    held_out = collect(HELD_OUT_TOWNS, max(2, arguments.routes // 10), 5000 + arguments.seed)
    pedal, steer, value = explained(model, held_out)
    print(f'explained on held-out towns: pedal {pedal:.2f}, steer {steer:.2f}, value {value:.2f}')
    write_atomically(arguments.out, lambda file: np.savez_compressed(file, **model.arrays()))
    print(f'{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
