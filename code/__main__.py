"""Set up a folder to work in: ``python -m thinktwice FOLDER``.

A checkout is such a folder; an installed package has no other files than its own.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from thinktwice.command_line import Parser, run_command
from thinktwice.errors import UserError

PACKAGE = Path(__file__).resolve().parent
CONTENT = ('train.py', 'tools', 'configs')
EXAMPLE = """example:
  python -m thinktwice my_project
  cd my_project
  python tools/record_minitown.py dataset/minitown
  python train.py configs/thinktwice_minitown.py
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    description = 'Copy train.py, tools/ and configs/ into a folder, where the documented commands then work.'
    parser = Parser(description, prog='python -m thinktwice', epilog=EXAMPLE)
    parser.add_argument('folder', type=Path, help='folder to copy into; it is made')
    folder: Path = parser.parse_args(argv).folder
    if present := [name for name in CONTENT if (folder / name).exists()]:
        raise UserError(f'{folder} already has {" and ".join(present)}: name another folder')
    folder.mkdir(parents=True, exist_ok=True)
    # inside of the package when installed from a wheel, beside code/ in a checkout
    source = PACKAGE / 'project' if (PACKAGE / 'project').is_dir() else PACKAGE.parent
    for name in ('tools', 'configs'):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(source / 'train.py', folder)
    sys.stdout.write(f'copied {", ".join(CONTENT)} to {folder}\n')


if __name__ == '__main__':
    sys.exit(run_command(main))
