"""Which process says what went wrong."""

import time
from pathlib import Path

import pytest
from helpers.ranks import Ranks, free_port, pytorch_environment
from torch import distributed

from thinktwice.command_line import run_command
from thinktwice.distributed.launch import process_group, start_distributed, stop_distributed
from thinktwice.errors import StartError


def read_missing_file(argv):
    Path('missing').read_text()


def start_and_read_missing_file(argv):
    start_distributed('pytorch')
    try:
        if distributed.get_rank() == 1:
            Path('missing').read_text()
    finally:
        stop_distributed()


def run(tmp_path, command) -> list[str]:
    port = free_port()
    environments = [pytorch_environment(rank, 2, port) for rank in range(2)]
    ranks = Ranks(run_command, (command, ()), environments, tmp_path)
    ranks.wait(60)
    return [ranks.log(rank) for rank in range(2)]


def test_one_process_says_that_a_file_is_missing_for_all(tmp_path):
    assert run(tmp_path, read_missing_file) == ['error: No such file or directory: missing\n', '']


def test_file_that_one_process_misses_later_is_named_by_it(tmp_path):
    first, second = run(tmp_path, start_and_read_missing_file)
    assert first == ''
    assert second == 'error (rank 1): No such file or directory: missing\n'


def fail_to_start(failing):
    with process_group('pytorch'):
        distributed.barrier()
        if str(distributed.get_rank()) in failing:
            raise StartError('the data does not fit')
        time.sleep(5)


@pytest.mark.parametrize('agent_store', [False, True])
@pytest.mark.parametrize(
    ('failing', 'first', 'second'),
    [
        (('0', '1'), 'error: the data does not fit\n', ''),
        (('1',), None, 'error (rank 1): the data does not fit\n'),
    ],
)
def test_start_that_fails_is_told_once(tmp_path, failing, first, second, agent_store):
    """With the store of torchrun's agent, which outlives rank 0, and with connections between the ranks."""
    port = free_port()
    environments = [pytorch_environment(rank, 2, port) for rank in range(2)]
    if agent_store:
        store = distributed.TCPStore('127.0.0.1', port, is_master=True, wait_for_workers=False)
        assert store
        agent = dict(TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT='0')
        environments = [environment | agent for environment in environments]
    ranks = Ranks(run_command, (fail_to_start, failing), environments, tmp_path)
    assert ranks.wait(60)[1] == 1
    assert ranks.log(1) == second
    assert first is None or ranks.log(0) == first
