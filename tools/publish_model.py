"""Publish the weights of a checkpoint: a safetensors file, its config and a model card.

Three files are written, with the first 8 digits of the SHA-256 of the first in their names:

    TARGET-1a2b3c4d.safetensors   the weights (the moving average where one is kept), without optimizer and
                                  state of training; config, versions and metrics are in its metadata
    TARGET-1a2b3c4d.py            the config as it was resolved for the run, with the paths of its data
    TARGET-1a2b3c4d.md            the model card

`train.py --load-from`, `tools/test.py` and `init_model` read the safetensors file and refuse it if its
content does not have the checksum of its name.

Examples:
    python tools/publish_model.py work_dirs/demo/best_open_loop_ade.pth ckpt/thinktwice_minitown
    python tools/test.py CONFIG work_dirs/run/epoch_60.pth --out metrics.json
    python tools/publish_model.py work_dirs/run/epoch_60.pth ckpt/thinktwice --metrics metrics.json
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinktwice.command_line import Parser, run_command
from thinktwice.errors import CheckpointError, UserError, describe

#: Entries of a checkpoint's ``meta`` that are published, and what the card calls them.
TRAINING = {
    'epoch': 'epochs',
    'iter': 'steps',
    'global_batch_size': 'batch size of all ranks together',
    'world_size': 'ranks',
    'seed': 'seed',
    'time': 'saved at',
    'version': 'thinktwice',
    'mmengine_version': 'mmengine',
}
CARD = """# {name}

{facts}

## Metrics

{metrics}

## Use

```python
from thinktwice.apis import init_model

model = init_model('{stem}.py', '{stem}.safetensors')
```

```
python train.py {stem}.py --load-from {stem}.safetensors --work-dir work_dirs/fine_tuned
```

The config is the one of the run that trained the weights; set its paths to your own data. Both commands
refuse a file whose SHA-256 does not begin with the digits of its name.
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` describes it."""
    parser = Parser(__doc__)
    parser.add_argument('checkpoint', type=Path, help='checkpoint that a training of this framework saved')
    parser.add_argument('target', type=Path, help='folder and beginning of the names to write')
    parser.add_argument(
        '--metrics',
        type=Path,
        metavar='FILE',
        help='metrics to publish, from `tools/test.py --out`; default: the score of a best_*.pth',
    )
    return parser.parse_args(argv)


def read_metrics(file: Path) -> dict[str, float]:
    """Read metrics by name, as ``tools/test.py --out`` writes them.

    Raises:
        UserError: The file is damaged, or holds anything but numbers by name.
    """
    try:
        metrics = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(metrics, dict):
            raise ValueError(f'it holds a {type(metrics).__name__}')
        if wrong := [name for name, value in metrics.items() if not isinstance(value, (int, float))]:
            raise ValueError(f'the value of {wrong[0]!r} is no number')
        return {name: float(value) for name, value in metrics.items()}
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file} is not a file of `tools/test.py --out`: {describe(error)}') from error


def best_score(checkpoint: Path) -> dict[str, float]:
    """The metric and score by which a checkpoint was kept as the best, empty for another checkpoint."""
    file = checkpoint.with_suffix('.json')
    if not checkpoint.name.startswith('best_') or not file.is_file():
        return {}
    try:
        entry = json.loads(file.read_text(encoding='utf-8'))
        return {str(entry['metric']): float(entry['score'])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f'{file} is damaged ({describe(error)}): remove it, or give --metrics') from error


def publish(checkpoint: Path, target: Path, metrics: Mapping[str, float]) -> Path:
    """Write the three files.

    Args:
        checkpoint: File that a training saved.
        target: Folder and beginning of the names.
        metrics: Metrics of the weights by name.

    Returns:
        The safetensors file.

    Raises:
        CheckpointError: The checkpoint is damaged, or holds no config.
        WriteError: A file cannot be written.
    """
    import torch

    from thinktwice.checkpoint.file import encode_safetensors, load_checkpoint
    from thinktwice.files import write_atomically, write_text

    content = load_checkpoint(checkpoint)
    meta: dict[str, Any] = content.get('meta', {})
    if not isinstance(meta, dict) or not isinstance(meta.get('cfg'), str):
        raise CheckpointError(
            f'{checkpoint} holds no config (meta.cfg): publish a checkpoint that a training of this '
            'framework saved'
        )
    # weights that share memory are written apart
    weights = {name: tensor.clone() for name, tensor in content['state_dict'].items()}
    numerics = {'numerics': content['numerics']} if 'numerics' in content else {}
    training = {title: meta[key] for key, title in TRAINING.items() if key in meta}
    metadata = {
        'config': meta['cfg'],
        'training': json.dumps(training, default=str),
        'torch': torch.__version__,
        'metrics': json.dumps(dict(metrics)),
    }
    data = encode_safetensors({'state_dict': weights, **numerics}, metadata)
    checksum = hashlib.sha256(data).hexdigest()
    path = target.with_name(f'{target.name}-{checksum[:8]}.safetensors')
    write_atomically(path, lambda file: file.write(data))
    write_text(path.with_suffix('.py'), meta['cfg'])
    facts = {
        'weights': f'{sum(tensor.numel() for tensor in weights.values()):,}',
        'size': f'{len(data) / 1e6:.1f} MB',
        'SHA-256': checksum,
        **training,
    }
    write_text(path.with_suffix('.md'), model_card(target.name, path.stem, facts, metrics))
    return path


def model_card(name: str, stem: str, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Text of the model card in Markdown."""
    from thinktwice.tables import format_table

    rows = [(key, f'{value:.4g}' if math.isfinite(value) else str(value)) for key, value in metrics.items()]
    return CARD.format(
        name=name,
        stem=stem,
        facts=format_table(('', name), [(key, str(value)) for key, value in facts.items()]),
        metrics=format_table(('metric', 'value'), rows) if rows else 'None were given.',
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    metrics = read_metrics(arguments.metrics) if arguments.metrics else best_score(arguments.checkpoint)
    path = publish(arguments.checkpoint, arguments.target, metrics)
    print(f'wrote {path}, {path.with_suffix(".py").name} and {path.with_suffix(".md").name}')


if __name__ == '__main__':
    sys.exit(run_command(main))
