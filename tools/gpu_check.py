"""Check and measure training on the GPU of this machine, and write one report.

Runs the CUDA tests, then measures a training step of the town's model in float32 and bfloat16. Needs
no network.

Example:
    python tools/gpu_check.py --report gpu_report.md
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from thinktwice.command_line import Parser, run_command
from thinktwice.errors import UserError

CONFIG = 'configs/thinktwice_minitown.py'


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        '--report', type=Path, default=Path('work_dirs/gpu_report.md'), help='Markdown file to write'
    )
    return parser.parse_args(arguments)


def commands(data: Path) -> dict[str, list[str]]:
    """Commands of the report by title; the drives of the town are recorded into ``data``."""
    step = ['tools/benchmark.py', 'step', CONFIG, '--cfg-options', f'data_root={data}']
    return {
        'Environment': ['tools/print_env.py'],
        'CUDA tests': ['-m', 'pytest', '-q', '-n', '0', '-m', 'cuda', 'tests'],
        'Recording': ['tools/record_minitown.py', str(data), '--routes', '6', '--frames', '20'],
        'Step in float32': step,
        'Step in bfloat16': [*step, 'optim_wrapper.amp_dtype=bfloat16'],
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
        for title, command in commands(Path(folder) / 'town').items():
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
    sys.exit(run_command(main))
