"""Figures of scaling are derived as documented, and the command measures one rank and two."""

import json
import math
import os
import subprocess
import sys

import pytest
from helpers.killed_runs import TOY_CONFIG
from helpers.ranks import HELPERS

from thinktwice.benchmark.scaling import ScalingFigures, format_figures


def figures(world_size=2, step=1.2, exchange=0.4):
    return ScalingFigures(world_size, 8, step, 1.0, exchange, 0.1)


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_overlap_and_throughput():
    assert figures().overlap == pytest.approx(0.5)  # 0.2 of 0.4 s are not hidden
    assert figures(step=1.6).overlap == 0
    assert figures(step=1.0).overlap == 1
    assert math.isnan(figures(world_size=1, exchange=0.0).overlap)
    assert figures().samples_per_second == pytest.approx(16 / 1.2)


def test_efficiency_is_relative_to_the_first_row():
    header, _, one, two = format_figures([figures(1, 1.0, 0.0), figures(2, 1.25)]).splitlines()
    assert cells(header)[0] == 'ranks'
    assert cells(one) == ['1', '1000.0', '1000.0', '-', '-', '100.0', '8.00', '100%']
    assert cells(two) == ['2', '1250.0', '1000.0', '400.0', '38%', '100.0', '12.80', '80%']


@pytest.mark.slow
def test_command_measures_one_rank_and_two_and_compares_them(repository, tmp_path):
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=repository, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([HELPERS, os.environ.get('PYTHONPATH', '')])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    files = [tmp_path / f'{ranks}.json' for ranks in (1, 2)]
    command = ('tools/benchmark.py', 'scaling', TOY_CONFIG, '--steps', '3', '--json')
    run(*command, files[0])
    run(
        *('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'),
        *(*command, files[1], '--launcher', 'pytorch'),
    )
    one, two = (json.loads(file.read_text()) for file in files)
    assert (one['world_size'], two['world_size']) == (1, 2)
    assert one['exchange'] == 0 < two['exchange']
    table = run('tools/benchmark.py', 'compare', *files)
    assert [cells(line)[0] for line in table.splitlines()[2:]] == ['1', '2']
