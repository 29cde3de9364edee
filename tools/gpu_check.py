"""Check and measure training on the GPU of this machine, and write one report.

Runs the CUDA tests and those that stop and resume runs, then measures training of the town's model: a
step in float32, in bfloat16 and compiled, with its kernel launches; NCCL and SyncBN on one to all GPUs,
and how far loading and gradient exchange overlap with a step; a profile with the waits for the GPU.
Another version of torch than the pinned one only warns. Needs no network.

Example:
    python tools/gpu_check.py --report gpu_report.md
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from thinktwice.command_line import Parser, run_command
from thinktwice.environment import SKIP_VARIABLE
from thinktwice.errors import UserError

CONFIG = 'configs/thinktwice_minitown.py'


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        '--report', type=Path, default=Path('work_dirs/gpu_report.md'), help='Markdown file to write'
    )
    return parser.parse_args(arguments)


def commands(data: Path, num_gpus: int) -> dict[str, list[str]]:
    """Commands of the report by title.

    Args:
        data: Folder for recorded drives.
        num_gpus: Devices of the machine.
    """
    overrides = ['--cfg-options', f'data_root={data}']
    step = ['tools/benchmark.py', 'step', CONFIG, *overrides]
    train = ['train.py', CONFIG, '--no-validate', *overrides, 'train_cfg.max_iters=20']
    pytest = ['-m', 'pytest', '-q', '-n', '0']
    ranks = {
        f'Ranks: {count}': [
            *('-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={count}'),
            *('tools/benchmark.py', 'scaling', CONFIG, '--launcher', 'pytorch', *overrides, 'batch_size=8'),
        ]
        for count in range(1, num_gpus + 1)
    }
    return {
        'Environment': ['tools/print_env.py'],
        'CUDA tests': [*pytest, '-m', 'cuda', 'tests'],
        'Resuming': [*pytest, '-k', 'resume', 'tests/test_apis/test_train.py'],
        'Recording': ['tools/record_minitown.py', str(data), '--routes', '6', '--frames', '20'],
        'Step in float32': step,
        'Step in bfloat16': [*step, 'optim_wrapper.amp_dtype=bfloat16'],
        'Training, compiled': [*train, 'compile=True', f'work_dir={data}/compiled'],
        'Training, profiled': [*train, f'work_dir={data}/profiled', '--profile'],
        **ranks,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all commands; return 1 if one failed."""
    options = parse_arguments(arguments)
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f'no CUDA device is available to torch {torch.__version__}: there is nothing to check'
        )
    name = torch.cuda.get_device_name()
    sections, failed = [f'# {torch.cuda.device_count()} x {name}, torch {torch.__version__}'], []
    with tempfile.TemporaryDirectory() as folder:
        for title, command in commands(Path(folder) / 'town', torch.cuda.device_count()).items():
            print(f'{title} ...', flush=True)
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                failed.append(title)
            output = done.stdout + (done.stderr if done.returncode else '')
            sections.append(f'## {title}: exit code {done.returncode}\n\n```\n{output.strip()}\n```')
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text('\n\n'.join(sections) + '\n', encoding='utf-8')
    print(f'{name}: {", ".join(failed) or "nothing"} failed; the report is {options.report}')
    return int(bool(failed))


if __name__ == '__main__':
    # a machine with a GPU may have a torch of its own
    os.environ.setdefault(SKIP_VARIABLE, '1')
    sys.exit(run_command(main))
