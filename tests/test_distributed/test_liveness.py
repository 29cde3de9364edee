"""A rank that waits outside of gloo's collectives, as one for NCCL does, ends when another rank has ended."""

import os
import signal
import threading
import time

import pytest
from helpers.ranks import Ranks, free_port, pytorch_environment, start_ranks
from torch import distributed

from thinktwice.command_line import run_command
from thinktwice.distributed import liveness
from thinktwice.distributed.launch import process_group


def wait_while_one_ends(ending_rank: int, action: str) -> int:
    """All ranks but one sleep; returns the exit code of a command."""
    liveness.GRACE_SECONDS = 0.5

    def command(unused):
        with process_group('pytorch'):
            distributed.barrier()
            if distributed.get_rank() != ending_rank:
                time.sleep(100)
            elif action == 'die':
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError('no such entry')

    try:
        return run_command(command, [])
    except KeyError:
        return 3


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize(
    ('action', 'code', 'cause'),
    [('die', -signal.SIGKILL, 'was killed'), ('raise', 3, "has failed: KeyError: 'no such entry'")],
)
def test_all_ranks_end_with_the_cause(tmp_path, rank, action, code, cause):
    ranks = start_ranks(wait_while_one_ends, (rank, action), 3, tmp_path)
    codes = ranks.wait(50)
    others = {0, 1, 2} - {rank}
    assert codes[rank] == code, ranks.logs()
    for other in others:
        assert codes[other] == 1, ranks.logs()
        (line,) = (line for line in ranks.log(other).splitlines() if line.startswith('error'))
        assert line.startswith(f'error (rank {other}): rank {rank} {cause}')


def finish_apart() -> set[str]:
    """Rank 1 ends a second earlier than rank 0; names of the threads that are left."""
    liveness.GRACE_SECONDS = 0.2
    with process_group('pytorch'):
        distributed.barrier()
        if distributed.get_rank() == 0:
            time.sleep(1)
    return {thread.name for thread in threading.enumerate()}


def test_a_rank_that_is_done_ends_no_other_and_leaves_no_thread(tmp_path):
    for names in start_ranks(finish_apart, (), 2, tmp_path).results():
        assert 'liveness' not in names


def connect_with_a_stranger() -> None:
    """Another program connects to the port that rank 0 publishes."""
    accept = liveness.socket.socket.accept

    def accept_after_stranger(server):
        liveness.socket.socket.accept = accept
        with liveness.socket.create_connection(('127.0.0.1', server.getsockname()[1])) as stranger:
            stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
            return server.accept()

    liveness.socket.socket.accept = accept_after_stranger
    with process_group('pytorch'):
        distributed.barrier()


def test_a_stranger_at_the_port_is_no_rank(tmp_path):
    port = free_port()
    environments = [pytorch_environment(rank, 2, port) for rank in (0, 1)]
    Ranks(connect_with_a_stranger, (), environments, tmp_path).results()
