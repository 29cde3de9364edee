"""The notebooks of the documentation."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import REPOSITORY

FIRST_DRIVE = REPOSITORY / 'docs' / 'notebooks' / 'first_drive.ipynb'


def code_cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [cell for cell in cells if cell['cell_type'] == 'code']


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in code_cells(FIRST_DRIVE):
        ast.parse(''.join(cell['source']))
        assert cell['outputs'] == [] and cell['execution_count'] is None


@pytest.mark.slow
def test_the_first_drive_runs(tmp_path: Path) -> None:
    for folder in ('configs', 'tools'):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    code = '\n'.join(''.join(cell['source']) for cell in code_cells(FIRST_DRIVE))
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'MPLBACKEND': 'Agg'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert 'mean (infractions per km)' in result.stdout
    folder = tmp_path / 'work_dirs' / 'first_drive'
    assert list(folder.glob('run/epoch_*.pth')) and list(folder.glob('videos/*.mp4'))
    assert list(folder.glob('run/*/vis_data/vis_image/val_sample_*.png'))
