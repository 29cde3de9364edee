"""What a work dir keeps about a run: environment, git state, command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmengine.utils.dl_utils import collect_env

ROOT = Path(__file__).resolve().parents[2]


def git_state(folder: Path = ROOT) -> dict[str, Any]:
    """Commit and uncommitted changes of the checkout that the package is run from.

    Args:
        folder: Any folder of the checkout.

    Returns:
        Keys ``commit``, ``branch``, ``changed_files`` and ``diff``; empty if the
        package was not installed from a checkout.
    """

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ['git', '-C', str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask('rev-parse', 'HEAD')
    if commit is None:
        return {}
    return dict(
        commit=commit,
        branch=ask('rev-parse', '--abbrev-ref', 'HEAD'),
        changed_files=(ask('status', '--short', '--untracked-files=no') or '').splitlines(),
        diff=ask('diff', 'HEAD') or '',
    )


def write_run_info(folder: str | Path) -> None:
    """Write ``environment.json`` and, with uncommitted changes, ``uncommitted.diff`` to a log folder.

    Args:
        folder: The run's log folder; made if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    git = git_state()
    diff = git.pop('diff', '')
    content = dict(
        command=sys.argv,
        git=git,
        environment={key: str(value) for key, value in collect_env().items()},
    )
    (folder / 'environment.json').write_text(json.dumps(content, indent=1))
    if diff:
        (folder / 'uncommitted.diff').write_text(diff + '\n')
