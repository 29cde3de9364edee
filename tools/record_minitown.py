"""Record drives in the embedded town as a dataset.

Example:
    python tools/record_minitown.py dataset/minitown --routes 8 --frames 60 --seed 0 --size 225x400

The labels are always the expert's. With --policy a trained model drives in turns with the expert, with
--noise the expert steers wrongly or brakes for moments; the dataset then shows how it goes on from there.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from thinktwice.command_line import Parser, natural, positive, run_command

if TYPE_CHECKING:
    from thinktwice.minitown import Driver

FRAMES_PER_SAMPLE = 6  # one of history, the key frame, four of future


def parse_size(text: str) -> tuple[int, int]:
    """Return the two integers of text like ``225x400``."""
    height, cross, width = text.partition('x')
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'expected two integers like 225x400, got {text!r}')
    return int(height), int(width)


def parse_noise(text: str) -> tuple[float, ...]:
    """Return the numbers of text like ``0.02,0.5`` or ``0.02,0.5,0.4``."""
    try:
        share, steer, *stops = map(float, text.split(',', 2))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected two or three numbers like 0.02,0.5,0.4, got {text!r}'
        ) from None
    return share, steer, *stops


def make_agent_driver(
    config: str, checkpoint: str, size: tuple[int, int], field_of_view: float, expert_share: float
) -> 'Driver':
    """A trained model and the expert, in turns."""
    import torch

    from thinktwice.apis import init_agent, init_model
    from thinktwice.closed_loop.agent_driver import AgentDriver
    from thinktwice.datasets.calibration import parse_calibration
    from thinktwice.minitown import CameraRig, Sensors, TakingTurns, make_calibration
    from thinktwice.minitown.recording.drivers import DECISION_SECONDS

    torch.set_num_threads(1)  # sums over several threads differ in their last bits
    rig = CameraRig(size, field_of_view)
    calibration = parse_calibration(make_calibration(Sensors(rig)), 'the recording')
    agent = init_agent(init_model(config, checkpoint, 'cpu'), calibration, DECISION_SECONDS)
    return TakingTurns(AgentDriver(agent, [camera.name for camera in rig.cameras]), expert_share)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument('out', help='folder of the new dataset')
    parser.add_argument(
        '--routes', type=positive, default=8, help='drives, assigned to the towns in turn (%(default)s)'
    )
    parser.add_argument(
        '--frames', type=positive, default=60, help='per drive, 0.5 s apart; a sample needs 6 (%(default)s)'
    )
    parser.add_argument(
        '--seed', type=natural, default=0, help='of traffic and routes; same seed, same bytes (%(default)s)'
    )
    parser.add_argument(
        '--size', type=parse_size, default='225x400', help='image size in pixels, HEIGHTxWIDTH (%(default)s)'
    )
    parser.add_argument(
        '--towns',
        help='comma-separated names such as town01_00; by default two routes already cover training and '
        'validation',
    )
    parser.add_argument(
        '--workers', type=positive, default=1, help='processes; the files do not depend on it (%(default)s)'
    )
    parser.add_argument(
        '--lidar', type=parse_size, default='64x937', help='LiDAR beams x firings per turn (%(default)s)'
    )
    parser.add_argument(
        '--fov', type=float, default=100.0, help='horizontal field of view, degrees (%(default)s)'
    )
    parser.add_argument(
        '--debug-maps', action='store_true', help="save the teacher's masks, 2.2 MB per frame"
    )
    parser.add_argument(
        '--policy',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='let this model drive too, in turns of 2 to 5 s (DAgger)',
    )
    parser.add_argument(
        '--expert-share',
        type=float,
        metavar='P',
        help="with --policy: probability that a turn is the expert's (0.5)",
    )
    parser.add_argument(
        '--noise',
        type=parse_noise,
        metavar='SHARE,STEER[,STOP]',
        help='at each decision of 0.1 s, with probability SHARE, begin 0.5 to 1.2 s in which the steering is '
        'wrong by up to STEER, or, with probability STOP (0), up to 3 s in which the ego brakes; for example '
        '0.02,0.5,0.4',
    )
    parser.add_argument('--force', action='store_true', help='replace an older recording in OUT')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Record, show progress and print what was recorded."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.noise and options.policy:
        parser.error('--noise and --policy exclude each other: record two datasets')
    if options.expert_share is not None and not options.policy:
        parser.error('--expert-share needs --policy, which shares the drive with the expert')
    from tqdm import tqdm

    from thinktwice.errors import ConfigError
    from thinktwice.minitown import DEFAULT_TOWNS, Expert, Lidar, NoisyExpert, record

    make_driver: Callable[[], Driver] = Expert
    if options.noise:
        make_driver = partial(NoisyExpert, *options.noise)
    if options.policy:
        share = 0.5 if options.expert_share is None else options.expert_share
        make_driver = partial(make_agent_driver, *options.policy, options.size, options.fov, share)
    bar: tqdm | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, unit='frame', mininterval=0.5 if sys.stderr.isatty() else 10.0)
        bar.update(done - bar.n)

    try:
        record(
            options.out,
            options.routes,
            options.frames,
            options.seed,
            options.size,
            options.towns.split(',') if options.towns else DEFAULT_TOWNS,
            options.workers,
            force=options.force,
            debug_maps=options.debug_maps,
            field_of_view=options.fov,
            lidar=Lidar(channels=options.lidar[0], columns=options.lidar[1]),
            make_driver=make_driver,
            progress=progress,
        )
    except ConfigError as error:
        parser.error(str(error))
    finally:
        if bar is not None:
            bar.close()
    print(f'recorded {options.routes} route(s) of {options.frames} frames in {options.out}')
    if options.frames < FRAMES_PER_SAMPLE:
        print(
            f'warning: the recording gives no sample, which needs {FRAMES_PER_SAMPLE} frames', file=sys.stderr
        )


if __name__ == '__main__':
    sys.exit(run_command(main))
