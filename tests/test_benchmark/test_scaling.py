"""Figures of weak scaling are derived as documented, and the command measures two processes."""

import json
import math
import os
import subprocess
import sys

import pytest
from helpers.killed_runs import TOY_CONFIG
from helpers.ranks import HELPERS

from thinktwice.benchmark.scaling import ScalingFigures, format_scaling


def figures(processes=2, step=1.2, exchange_alone=0.4):
    return ScalingFigures(processes, 8, step, 1.0, exchange_alone, 0.1, 400)


def test_bytes_and_overlap():
    assert figures(processes=16).bytes_sent == 2 * 15 / 16 * 400
    assert figures().overlap == pytest.approx(0.5)  # 0.2 of 0.4 s show
    assert figures(step=1.6).overlap == 0
    assert figures(step=1.0).overlap == 1
    assert math.isnan(figures(processes=1, exchange_alone=0.0).overlap)
    assert figures().samples_per_second == pytest.approx(16 / 1.2)


def test_table_compares_with_its_first_row():
    lines = format_scaling([figures(1, 1.0, 0.0), figures(2, 1.25)]).splitlines()
    assert lines[0].split()[0] == 'processes'
    assert (lines[1].split()[-1], lines[2].split()[-1]) == ('100%', '80%')


@pytest.mark.slow
def test_command_measures_one_and_two_processes(repository, tmp_path):
    out = tmp_path / 'figures.json'
    done = subprocess.run(
        [sys.executable, 'tools/benchmark.py', 'scaling', TOY_CONFIG, '--steps', '3', '--json', str(out)],
        cwd=repository, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, 'PYTHONPATH': HELPERS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = json.loads(out.read_text())
    assert (one['processes'], two['processes']) == (1, 2)
    assert one['gradient_bytes'] == two['gradient_bytes'] == 4 * (2 * 8 + 2 * 8 + 9 * 8)
    assert one['exchange_alone'] == 0 < two['exchange_alone']
