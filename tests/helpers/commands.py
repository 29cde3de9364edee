"""Commands as users type them."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_python(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run Python with arguments from the root, as a user would; returns the finished process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': 'tests/helpers', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
