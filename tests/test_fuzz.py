"""Nothing that is wrong in a config, a command line, data or a checkpoint ends in more than one line."""

import os

import pytest
from helpers.commands import run_python

SEEDS = '0:500'


@pytest.mark.slow
def test_random_faults_end_in_a_run_or_in_one_line(tmp_path):
    jobs = str(len(os.sched_getaffinity(0)))
    arguments = [str(tmp_path), '--seeds', SEEDS, '--jobs', jobs]
    result = run_python('tests/helpers/fuzz.py', *arguments, timeout=3600)
    assert result.stdout.count('\nseed ') == 500, result.stderr
    assert 'FAULT' not in result.stdout, f'seeds {SEEDS}: {result.stdout}'
