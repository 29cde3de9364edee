"""Which process says what went wrong."""

from pathlib import Path

from helpers.ranks import Ranks, free_port, pytorch_environment
from torch import distributed

from thinktwice.command_line import run_command
from thinktwice.distributed.launch import start_distributed, stop_distributed


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
