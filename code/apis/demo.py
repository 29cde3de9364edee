"""From nothing to a trained model: what ``make demo`` runs.

Records drives in the embedded town, trains on some towns, evaluates on others
beside two baselines, and draws pictures. What is there already is used again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from thinktwice.apis.test import build_tester
from thinktwice.checkpoint.file import find_latest_checkpoint, load_checkpoint
from thinktwice.command_line import KeyValueAction
from thinktwice.config.load import load_config
from thinktwice.core.evaluation.table import comparison_table
from thinktwice.core.visualization import draw_sample, save_picture
from thinktwice.errors import ConfigError
from thinktwice.model_code.control import beta_mode_action
from thinktwice.number_flags import positive
from thinktwice.registry import DATASETS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = 'example: python tools/run_demo.py --out work_dirs/demo'
LABEL_STEPS = ('LoadMeasurements', 'LoadWaypoints', 'LoadSupervision')
BASELINES = {
    'open_loop': 'trained model',
    'constant_velocity': 'constant velocity',
    'training_mean': 'mean of training set',
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of ``tools/run_demo.py``.

    Args:
        argv: Arguments, None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description='Record drives, train on them, evaluate, show the result.', epilog=EXAMPLE
    )
    parser.add_argument('--config', default='configs/thinktwice_minitown.py', help='config to train')
    parser.add_argument('--data', default='dataset/minitown', help='folder of the drives; recorded if absent')
    parser.add_argument(
        '--out', default='work_dirs/demo', help='folder of logs, checkpoints, pictures, results'
    )
    parser.add_argument('--routes', type=positive, default=26, help='drives to record')
    parser.add_argument('--frames', type=positive, default=70, help='frames a drive, 0.5 s apart')
    parser.add_argument('--size', default='90x160', help='recorded image size, HEIGHTxWIDTH pixels')
    parser.add_argument(
        '--processes', type=positive, default=min(2, os.cpu_count() or 1), help='training processes'
    )
    parser.add_argument('--pictures', type=positive, default=12, help='pictures to draw')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides of the config'
    )
    return parser.parse_args(argv)


def say(message: str, start: float) -> None:
    """Print a headline with the time since ``start``."""
    sys.stdout.write(f'\n== {time.monotonic() - start:4.0f} s  {message}\n')
    sys.stdout.flush()


def run(*command: str) -> None:
    """Run a Python command of this project from its root, its output shown.

    Raises:
        ConfigError: It failed.
    """
    sys.stdout.write('$ python ' + ' '.join(command) + '\n')
    sys.stdout.flush()
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if finished.returncode:
        raise ConfigError(
            f'`python {" ".join(command)}` ended with exit code {finished.returncode}; see its message above'
        )


def record(arguments: argparse.Namespace) -> None:
    """Record drives unless the folder holds some. Towns are dealt to training and held-out drives 4 to 1."""
    if (ROOT / arguments.data / 'dataset_metadata.json').is_file():
        sys.stdout.write(f'{arguments.data} holds drives already: used as they are\n')
        return
    towns = demo_towns(arguments.routes)
    run(
        *('tools/record_minitown.py', arguments.data, '--routes', str(arguments.routes)),
        *('--frames', str(arguments.frames), '--size', arguments.size, '--towns', ','.join(towns)),
        *('--workers', str(os.cpu_count() or 1)),
        '--force',  # of what an interrupted demo left; other folders are refused all the same
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


def train(arguments: argparse.Namespace, overrides: list[str], cfg: Config) -> Path:
    """Train, or continue, or find it done; returns the last checkpoint."""
    done = find_latest_checkpoint(ROOT / arguments.out)
    if done is not None and load_checkpoint(done)['meta'].get('epoch', 0) >= cfg.train_cfg.max_epochs:
        sys.stdout.write(f'{done} is fully trained: used as it is\n')
        return done
    launch = ['train.py']
    last = [arguments.config, f'--work-dir={arguments.out}', '--resume', 'auto']
    if arguments.processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone']
        launch += [f'--nproc_per_node={arguments.processes}', 'train.py']
        last += ['--launcher', 'pytorch']
    # so many processes share the samples of a step, whatever their number
    share = f'batch_size={max(1, cfg.batch_size // arguments.processes)}'
    run(*launch, *last, '--cfg-options', *overrides, share)
    checkpoint = find_latest_checkpoint(ROOT / arguments.out)
    assert checkpoint is not None
    return checkpoint


def training_mean(cfg: Config) -> dict[str, Any]:
    """Mean plan and control of the training set, from its labels alone.

    Returns:
        ``waypoints`` (K, 2) metres and ``action`` (2,), as lists.
    """
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if step['type'] in LABEL_STEPS]
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': steps})
    labels = [dataset[index] for index in range(len(dataset))]
    alpha, beta = (
        torch.from_numpy(np.stack([label[f'action_{name}'] for label in labels]))
        for name in ('alpha', 'beta')
    )
    return dict(
        waypoints=np.mean([label['waypoints'] for label in labels], axis=0).tolist(),
        action=beta_mode_action(alpha, beta).mean(dim=0).tolist(),
    )


def evaluate(cfg: Config, checkpoint: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Metrics of the model and the baselines on the same held-out frames; draws pictures on the way."""
    mean = training_mean(cfg)
    interval = DATASETS.build(cfg.val_dataloader.dataset).calibration.frame_interval
    cfg.test_evaluator = [
        dict(type='OpenLoopMetric'),
        dict(type='ConstantVelocityMetric', interval=interval),
        dict(type='MeanPlanMetric', **mean),
    ]
    cfg.work_dir = str(ROOT / arguments.out / 'evaluation')
    cfg.launcher = 'none'
    cfg.log_level = 'WARNING'
    runner = build_tester(cfg, str(checkpoint))
    metrics = runner.test()
    dataset, collate = runner.test_dataloader.dataset, runner.test_dataloader.collate_fn
    runner.model.eval()
    for index in np.linspace(0, len(dataset) - 1, arguments.pictures).round().astype(int):
        sample = dataset[int(index)]
        with torch.no_grad():
            (prediction,) = runner.model.test_step(collate([sample]))
        name = sample['metas']['sample_id'].replace('/', '_')
        save_picture(draw_sample(sample, prediction), ROOT / arguments.out / 'pictures' / f'{name}.png')
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: Arguments, None for those of the process.

    Returns:
        0, or 1 if the trained model does not beat both baselines on ADE.
    """
    start = time.monotonic()
    arguments = parse_arguments(argv)
    os.chdir(ROOT)
    say(f'recording drives: {arguments.data}', start)
    record(arguments)
    overrides = [f'data_root={arguments.data}', *arguments.cfg_options]
    options = parse_options(overrides)
    cfg = load_config(arguments.config, options)
    say(f'training {arguments.config} on {arguments.processes} process(es): {arguments.out}', start)
    checkpoint = train(arguments, overrides, cfg)
    say('evaluating on held-out towns', start)
    metrics = evaluate(load_config(arguments.config, options), checkpoint, arguments)
    table = comparison_table(metrics, BASELINES)
    (ROOT / arguments.out / 'results.json').write_text(json.dumps(metrics, indent=1))
    (ROOT / arguments.out / 'results.txt').write_text(table)
    say(f'results; pictures in {arguments.out}/pictures', start)
    sys.stdout.write(f'\n{table}\n')
    own = metrics['open_loop/ade']
    worse = [name for key, name in BASELINES.items() if metrics[f'{key}/ade'] < own]
    if worse:
        sys.stdout.write(f'The model does not beat: {", ".join(worse)} (ADE).\n')
    return int(bool(worse))


def parse_options(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides as ``--cfg-options`` would parse them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction)
    return parser.parse_args(['--cfg-options', *overrides]).cfg_options
