"""From nothing to a model that drives: ``make demo``.

Records drives in the embedded town, trains on some towns, evaluates on others beside baselines, measures
what the model takes from its sensors, lets it drive, draws pictures, and publishes the model. Drives and
checkpoints of an earlier call are used again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinktwice.command_line import Parser, add_override_flag, positive, run_command
from thinktwice.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = 'example: python tools/run_demo.py --out work_dirs/demo'
BASELINES = {
    'open_loop': 'trained model',
    'constant_velocity': 'constant velocity',
    'training_mean': 'mean of training set',
    'ego_mlp': 'MLP of speed and target point',
}
MUST_BEAT = ('constant_velocity', 'training_mean')
DRIVERS = {
    'expert': 'expert',
    'agent': 'trained model',
    'ego_mlp': 'MLP of speed and target point',
    'lane': 'constant speed along the lane',
    'constant': 'constant throttle',
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__, epilog=EXAMPLE)
    parser.add_argument(
        '--configs',
        nargs='+',
        default=[f'configs/thinktwice_minitown_stage{stage}.py' for stage in (1, 2)],
        metavar='CONFIG',
        help='configs to train one after the other, each from the weights of the one before',
    )
    parser.add_argument('--data', default='dataset/minitown', help='folder of the drives; recorded if absent')
    parser.add_argument(
        '--out', default='work_dirs/demo', help='folder of logs, checkpoints, pictures, results'
    )
    parser.add_argument('--routes', type=positive, default=40, help='drives to record')
    parser.add_argument('--frames', type=positive, default=110, help='frames per drive, 0.5 s apart')
    parser.add_argument('--size', default='90x160', help='recorded image size, HEIGHTxWIDTH pixels')
    parser.add_argument(
        '--processes', type=positive, default=min(2, os.cpu_count() or 1), help='training processes'
    )
    parser.add_argument('--drives', type=positive, default=10, help='unseen routes to drive')
    parser.add_argument('--pictures', type=positive, default=12, help='pictures to draw')
    add_override_flag(parser)
    return parser.parse_args(argv)


def say(message: str, start: float) -> None:
    """Print a headline with the time since ``start``."""
    print(f'\n== {time.monotonic() - start:4.0f} s  {message}', flush=True)


def run(*command: str) -> None:
    """Run a Python command of this project from its root and show its output.

    Raises:
        UserError: It failed.
    """
    line = f'python {" ".join(command)}'
    print(f'$ {line}', flush=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if code:
        raise UserError(f'`{line}` ended with exit code {code}; see its message above')


def record(arguments: argparse.Namespace) -> None:
    """Record drives unless the folder holds some; four training towns for each held-out one."""
    if (ROOT / arguments.data / 'dataset_metadata.json').is_file():
        print(f'{arguments.data} holds drives already: used as they are')
        return
    run(
        *('tools/record_minitown.py', arguments.data, '--routes', str(arguments.routes)),
        *('--frames', str(arguments.frames), '--size', arguments.size),
        *('--towns', ','.join(demo_towns(arguments.routes)), '--workers', str(os.cpu_count() or 1)),
        # wrong steering shows how to recover, stops without a reason how to start
        *('--lidar', '32x600', '--noise', '0.02,0.4,0.4'),
        '--force',  # replaces what an interrupted demo left; other folders are refused all the same
    )


def demo_towns(routes: int) -> list[str]:
    """Towns of the drives: four of training (01, 03, 04, 06) for each held-out one (02, 05), in turn.

    Args:
        routes: Number of drives, at most 60: twelve runs through each town.
    """
    training = [f'town{number:02d}_{run:02d}' for run in range(12) for number in (1, 3, 4, 6)]
    held_out = [f'town{number:02d}_{run:02d}' for run in range(12) for number in (2, 5)]
    towns: list[str] = []
    while len(towns) < routes and training:
        towns += [*training[:4], held_out[0]]
        training, held_out = training[4:], held_out[1:]
    return towns[:routes]


def train(arguments: argparse.Namespace) -> Path:
    """Train the configs one after the other; returns the last checkpoint of the last one.

    The last one is trained in the folder of results, those before it in subfolders named after them.
    """
    checkpoint = None
    for config in arguments.configs:
        last = config == arguments.configs[-1]
        folder = arguments.out if last else f'{arguments.out}/{Path(config).stem}'
        checkpoint = train_config(arguments, config, folder, load_from=checkpoint)
    assert checkpoint is not None
    return checkpoint


def train_config(
    arguments: argparse.Namespace, config: str, folder: str, load_from: Path | None = None
) -> Path:
    """Train a config, or resume, or find it done; returns the last checkpoint."""
    from thinktwice.checkpoint.file import load_checkpoint
    from thinktwice.checkpoint.run_folder import find_latest_checkpoint

    cfg = load_demo_config(arguments, config)
    done = find_latest_checkpoint(ROOT / folder)
    if done is not None and load_checkpoint(done)['meta'].get('epoch', 0) >= cfg.train_cfg.max_epochs:
        print(f'{done} is fully trained: used as it is')
        return done
    launch, flags = ['train.py'], [f'--work-dir={folder}', '--resume', 'auto']
    if arguments.processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone']
        launch += [f'--nproc_per_node={arguments.processes}', 'train.py']
        flags += ['--launcher', 'pytorch']
    options = {
        **arguments.cfg_options,
        'data_root': arguments.data,
        'batch_size': max(1, cfg.batch_size // arguments.processes),  # the samples of a step stay the same
    }
    if folder != arguments.out:
        flags += ['--no-validate']
    if load_from is not None:
        flags += [f'--load-from={load_from}']
        options['strict_load'] = False  # a stage may have parts that the one before lacks
    pairs = [f'{key}={value}' for key, value in options.items()]
    run(*launch, config, *flags, '--cfg-options', *pairs)
    checkpoint = find_latest_checkpoint(ROOT / folder)
    assert checkpoint is not None
    return checkpoint


def load_demo_config(arguments: argparse.Namespace, config: str) -> 'Config':
    """Load a config with the options of the command line."""
    from thinktwice.config.load import load_config

    return load_config(config, {**arguments.cfg_options, 'data_root': arguments.data})


def labels(cfg: 'Config', split: str) -> list[dict[str, Any]]:
    """Measurements and labels of all samples of a split."""
    from thinktwice.apis import init_dataset

    dataset = init_dataset(cfg, split, labels_only=True)
    return [dataset[index] for index in range(len(dataset))]


def mean_plan(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean plan and control of samples: ``waypoints`` (K, 2) in meters and ``action`` (2,), as lists."""
    from thinktwice.closed_loop.ego_mlp import label_tensors
    from thinktwice.model_code.control import beta_mode_action

    waypoints, alpha, beta = label_tensors(samples).values()
    actions = beta_mode_action(alpha, beta)
    return dict(waypoints=waypoints.mean(dim=0).tolist(), action=actions.mean(dim=0).tolist())


def ego_mlp_errors(
    training: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Metrics of the ego-status MLP."""
    from thinktwice.closed_loop.ego_mlp import label_tensors, train_ego_mlp
    from thinktwice.core.evaluation import OpenLoopMetric

    metric = OpenLoopMetric(prefix='ego_mlp')
    metas = [{'index': index} for index in range(len(held_out))]
    predictions = train_ego_mlp(training).predict(held_out)
    metric.process(dict(targets=label_tensors(held_out), metas=metas), predictions)
    return metric.evaluate(len(held_out))


def evaluate(cfg: 'Config', checkpoint: Path, out: Path) -> dict[str, float]:
    """Metrics of the model and the baselines on the same held-out frames."""
    from thinktwice.apis import init_dataset, test

    training = labels(cfg, 'train')
    baselines = [
        dict(type='ConstantVelocityMetric', interval=init_dataset(cfg).calibration.frame_interval),
        dict(type='MeanPlanMetric', **mean_plan(training)),
    ]
    cfg.test_evaluator = [*cfg.val_evaluator, *baselines]
    cfg.log_level = 'WARNING'
    metrics = test(cfg, checkpoint, work_dir=out / 'evaluation', reliance=True)
    metrics |= ego_mlp_errors(training, labels(cfg, 'val'))
    (out / 'results.json').write_text(json.dumps(metrics, indent=1))
    return metrics


def drive(arguments: argparse.Namespace, checkpoint: Path, out: Path) -> str:
    """Drive unseen routes with the model and the baselines; returns a table of the scores."""
    from thinktwice.tables import format_table

    common = ('--routes', str(arguments.drives), '--processes', str(os.cpu_count() or 1))
    config, rows = arguments.configs[-1], []
    for policy, title in DRIVERS.items():
        file = out / 'driving' / f'{policy}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        needs = {'agent': (config, str(checkpoint)), 'ego_mlp': (config,)}.get(policy, ())
        pairs = {**arguments.cfg_options, 'data_root': arguments.data}
        options = ('--cfg-options', *(f'{key}={value}' for key, value in pairs.items())) if needs else ()
        videos = ('--video', str(out / 'driving' / 'videos'), '--videos', '2') if policy == 'agent' else ()
        command = ('tools/drive_minitown.py', *needs, '--policy', policy, *common, '--out', str(file))
        run(*command, *videos, *options)
        record = json.loads(file.read_text())['_checkpoint']['global_record']
        scores, infractions = record['scores'], record['infractions']
        collisions = sum(value for key, value in infractions.items() if key.startswith('collisions'))
        rows.append(
            (
                title,
                f'{scores["score_composed"]:.1f}',
                f'{scores["score_route"]:.0f}',
                f'{scores["score_penalty"]:.2f}',
                f'{collisions:.1f}',
                f'{infractions["red_light"]:.1f}',
            )
        )
    header = ('driver', 'driving score', 'completion, %', 'penalty', 'collisions / km', 'red lights / km')
    return format_table(header, rows)


def draw(cfg: 'Config', checkpoint: Path, folder: Path, count: int) -> None:
    """Draw evenly spaced held-out samples with what the model plans."""
    import numpy as np

    from thinktwice.apis import draw_prediction, init_dataset, init_model
    from thinktwice.core.visualization import save_picture

    model, dataset = init_model(cfg, checkpoint), init_dataset(cfg)
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        name = dataset.sample_id(index).replace('/', '_')
        save_picture(draw_prediction(model, dataset, index), folder / f'{name}.png')


def publish(cfg: 'Config', checkpoint: Path, metrics: dict[str, float], folder: Path) -> None:
    """Publish the model with its own metrics, without those of baselines and of exchanged inputs."""
    file = folder / 'metrics.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in metrics.items() if key.startswith(('open_loop/', 'perception/'))}
    file.write_text(json.dumps(own, indent=1))
    target = folder / Path(cfg.filename).stem
    run('tools/publish_model.py', str(checkpoint), str(target), '--metrics', str(file))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0, or 1 if the trained model does not beat the baselines that learn nothing on ADE.
    """
    start = time.monotonic()
    arguments = parse_arguments(argv)
    from thinktwice.core.evaluation.reliance import reliance_table
    from thinktwice.core.evaluation.table import comparison_table

    os.chdir(ROOT)
    out = ROOT / arguments.out
    say(f'recording drives: {arguments.data}', start)
    record(arguments)
    say(f'training on {arguments.processes} process(es): {arguments.out}', start)
    checkpoint = train(arguments)
    cfg = load_demo_config(arguments, arguments.configs[-1])
    say('evaluating on held-out towns', start)
    metrics = evaluate(cfg, checkpoint, out)
    draw(cfg, checkpoint, out / 'pictures', arguments.pictures)
    say(f'driving {arguments.drives} unseen routes', start)
    driving = drive(arguments, checkpoint, out)
    say(f'publishing the model: {arguments.out}/published', start)
    publish(cfg, checkpoint, metrics, out / 'published')
    tables = '\n\n'.join(
        [
            f'Errors on held-out towns:\n{comparison_table(metrics, BASELINES)}',
            f'What the errors are with an input of other samples:\n{reliance_table(metrics)}',
            f'Driving {arguments.drives} unseen routes, scored as in the CARLA leaderboard:\n{driving}',
        ]
    )
    (out / 'results.txt').write_text(f'{tables}\n')
    say(f'results; pictures in {arguments.out}/pictures, videos in {arguments.out}/driving/videos', start)
    print(f'\n{tables}')
    worse = [name for key, name in BASELINES.items() if metrics[f'{key}/ade'] < metrics['open_loop/ade']]
    if worse:
        print(f'The model does not beat: {", ".join(worse)} (ADE).')
    return int(not {BASELINES[key] for key in MUST_BEAT}.isdisjoint(worse))


if __name__ == '__main__':
    sys.exit(run_command(main))
