"""Train a model: ``python train.py CONFIG [flags]``; ``--help`` lists the flags."""

import argparse
import sys
from collections.abc import Sequence

try:
    from thinktwice.command_line import Parser, add_run_flags, positive, run_command
except ModuleNotFoundError:  # only this package and the standard library are imported there
    sys.exit(
        f'error: no thinktwice in {sys.executable}: run `make setup`, then `.venv/bin/python train.py ...`'
    )

EXAMPLES = """examples:
  python train.py configs/thinktwice_minitown.py --work-dir work_dirs/minitown
  python train.py configs/thinktwice.py --cfg-options is_dev=True optim_wrapper.optimizer.lr=2e-4
  torchrun --nproc_per_node 8 train.py configs/thinktwice.py --launcher pytorch --resume
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('Train a model.', epilog=EXAMPLES)
    parser.add_argument('config', help='config file, for example configs/thinktwice.py')
    add_run_flags(parser)
    parser.add_argument(
        '--resume-from',
        '--resume',
        dest='resume',
        nargs='?',
        const='auto',
        metavar='auto|FILE',
        help='continue from the newest checkpoint of the work dir (no value, or auto; a new run if there '
        'is none), or from a file',
    )
    parser.add_argument('--load-from', metavar='FILE', help='start a new run from the weights of a file')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--seed', type=int, help='random seed (default: randomness.seed of the config)')
    parser.add_argument('--deterministic', action='store_true', help='use deterministic algorithms only')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: bfloat16, unless optim_wrapper.amp_dtype of the config names another',
    )
    parser.add_argument(
        '--autoscale-lr',
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by samples per step / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--profile',
        type=positive,
        nargs='?',
        const=5,
        metavar='STEPS',
        help='write a trace of some steps (5) to profile/ of the work dir, and log where their time goes',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    from thinktwice.apis import train
    from thinktwice.core.hooks.preemption import leave_on_signals

    with leave_on_signals():
        train(
            arguments.config,
            work_dir=arguments.work_dir,
            cfg_options=arguments.cfg_options,
            launcher=arguments.launcher,
            resume=arguments.resume,
            load_from=arguments.load_from,
            validate=not arguments.no_validate,
            seed=arguments.seed,
            deterministic=arguments.deterministic,
            amp=arguments.amp,
            autoscale_lr=arguments.autoscale_lr,
            profile=arguments.profile,
            trust_checkpoint=arguments.trust_checkpoint,
        )


if __name__ == '__main__':
    sys.exit(run_command(main))
