"""Each launcher's variables start a run; wrong ones are answered in one line, at once."""

import json
import os
import socket
import time

import pytest
import torch
from helpers.killed_runs import toy_arguments
from helpers.ranks import Ranks, free_port, pytorch_environment, run_train, start_ranks
from torch import distributed

from thinktwice.distributed import launch
from thinktwice.distributed.launch import start_distributed, stop_distributed
from thinktwice.errors import LaunchError

SHORT = ('train_cfg.max_epochs=1', 'env_cfg.dist_cfg.start_minutes=0.12')


def slurm(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        'SLURM_PROCID': str(rank), 'SLURM_NTASKS': str(size), 'SLURM_LOCALID': str(rank),
        'SLURM_STEP_NUM_TASKS': str(size), 'SLURM_NODELIST': 'localhost', 'MASTER_PORT': str(port),
    }  # fmt: skip


def open_mpi(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        'OMPI_COMM_WORLD_RANK': str(rank), 'OMPI_COMM_WORLD_SIZE': str(size), 'MASTER_PORT': str(port),
        'OMPI_COMM_WORLD_LOCAL_RANK': str(rank), 'OMPI_COMM_WORLD_LOCAL_SIZE': str(size),
    }  # fmt: skip


def mpich(rank: int, size: int, port: int) -> dict[str, str]:
    names = ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS', 'MASTER_PORT')
    return dict(zip(names, map(str, (rank, size, rank, size, port)), strict=True))


def start(tmp_path, launcher, environments) -> Ranks:
    arguments = toy_arguments(tmp_path / 'run', *SHORT, launcher=launcher, resume=False)
    return Ranks(run_train, (arguments,), environments, tmp_path / 'ranks')


@pytest.mark.parametrize(
    ('launcher', 'variables'),
    [('pytorch', pytorch_environment), ('slurm', slurm), ('mpi', open_mpi), ('mpi', mpich)],
)
def test_processes_find_each_other_by_the_variables_of(tmp_path, launcher, variables):
    port = free_port()
    ranks = start(tmp_path, launcher, [variables(rank, 2, port) for rank in range(2)])
    assert ranks.wait() == [0, 0], ranks.logs()
    assert 'Epoch(train) [1][3/3]' in ranks.log(0)  # 24 samples, 2 processes, batches of 4
    assert 'Epoch(train)' not in ranks.log(1)


def test_launcher_forgotten(tmp_path):
    ranks = start(tmp_path, 'none', [pytorch_environment(0, 2, 1)])
    assert ranks.wait(20) == [1]
    assert ranks.log(0).strip().splitlines()[-1].endswith('Add --launcher pytorch.')


def test_no_master_address(tmp_path):
    environment = pytorch_environment(0, 2, 1)
    del environment['MASTER_ADDR']
    ranks = start(tmp_path, 'pytorch', [environment])
    assert ranks.wait(20) == [1]
    assert 'error: --launcher pytorch needs the environment variable MASTER_ADDR' in ranks.log(0)


@pytest.mark.parametrize('rank', [0, 1])
def test_unknown_host(tmp_path, rank):
    environment = pytorch_environment(rank, 2, free_port()) | {'MASTER_ADDR': 'no-such-host.invalid'}
    ranks = start(tmp_path, 'pytorch', [environment])
    assert ranks.wait(60) == [1]
    assert "host 'no-such-host.invalid' (MASTER_ADDR) is unknown here" in ranks.log(0)
    assert 'Traceback' not in ranks.log(0)


def test_busy_port(tmp_path):
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        ranks = start(tmp_path, 'pytorch', [pytorch_environment(0, 1, other.getsockname()[1])])
        assert ranks.wait(20) == [1]
    assert 'is in use on this machine' in ranks.log(0)


def test_processes_that_do_not_come_are_named(tmp_path):
    ranks = start(tmp_path, 'pytorch', [pytorch_environment(0, 3, free_port())])
    assert ranks.wait(60) == [1]
    assert 'waiting for 2 of 3 ranks (ranks 1, 2)' in ranks.log(0)
    assert '2 of 3 ranks are missing (ranks 1, 2). Does WORLD_SIZE fit' in ranks.log(0)


def test_world_sizes_that_differ(tmp_path):
    port = free_port()
    ranks = start(tmp_path, 'pytorch', [pytorch_environment(0, 2, port), pytorch_environment(1, 4, port)])
    assert ranks.wait(60) == [1, 1]
    assert 'rank 1 was started as one of 4 ranks, rank 0 as one of 2' in ranks.log(1)


def test_process_of_another_step_at_the_same_port(tmp_path):
    """Both ends say what they have to: the stranger that it is one, rank 0 whom it misses."""
    port = free_port()
    environments = [
        slurm(rank, 2, port) | {'SLURM_JOB_ID': '7', 'SLURM_STEP_ID': str(rank)} for rank in (0, 1)
    ]
    ranks = start(tmp_path, 'slurm', environments)
    assert ranks.wait(60) == [1, 1]
    assert 'another run (job step 7.0) listens at localhost' in ranks.log(1)
    assert 'not that of rank 1 (job step 7.1)' in ranks.log(1)
    assert '1 of 2 ranks are missing (ranks 1)' in ranks.log(0)


def test_processes_with_other_options(tmp_path):
    port = free_port()
    ranks = []
    for rank, options in enumerate([(), ('model.dropout=0.3',)]):
        arguments = toy_arguments(tmp_path / 'run', *SHORT, *options, launcher='pytorch', resume=False)
        environment = [pytorch_environment(rank, 2, port)]
        ranks.append(Ranks(run_train, (arguments,), environment, tmp_path / str(rank)))
    assert [process.wait(30) for process in ranks] == [[1], [1]]
    for process in ranks:
        assert 'the config of rank 1 is not that of rank 0' in process.log(0)
    assert 'dropout' in ranks[1].log(0)
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_two_processes_of_one_rank(tmp_path):
    port = free_port()
    ranks = start(tmp_path, 'pytorch', [pytorch_environment(rank, 3, port) for rank in (0, 1, 1)])
    assert ranks.wait(60) == [1, 1, 1]
    assert 'two processes have rank 1 of 3' in ranks.log(1) + ranks.log(2)


def test_rank_0_that_dies_before_the_others_have_connected(tmp_path):
    """It answered once; then nobody does. The other says so and ends."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        ranks = start(tmp_path, 'pytorch', [pytorch_environment(1, 2, listener.getsockname()[1])])
        listener.accept()[0].close()
    assert ranks.wait(60) == [1]
    last = ranks.log(0).strip().splitlines()[-1]
    assert last.startswith('error (rank 1): no answer at 127.0.0.1')


@pytest.mark.slow
def test_stranger_at_the_port(tmp_path):
    """Some other service listens there: it accepts connections and says nothing."""
    with socket.create_server(('127.0.0.1', 0)) as stranger:
        ranks = start(tmp_path, 'pytorch', [pytorch_environment(1, 2, stranger.getsockname()[1])])
        assert ranks.wait(60) == [1]
    last = ranks.log(0).strip().splitlines()[-1]
    assert last.startswith('error (rank 1): no answer at 127.0.0.1')


@pytest.mark.parametrize(
    ('launcher', 'count', 'local_rank', 'device'),
    [('slurm', 1, 3, 0), ('mpi', 1, 1, 0), ('slurm', 4, 3, 3), ('pytorch', 1, 0, 0), ('pytorch', 8, 7, 7)],
)
def test_gpu_is_that_of_the_local_rank_or_the_only_one_of_the_task(
    monkeypatch, launcher, count, local_rank, device
):
    """``srun --gpus-per-task=1`` shows each task one GPU, its own, as device 0."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    launch._choose_gpu(local_rank, 'nccl', launcher)
    assert chosen == [device]


@pytest.mark.parametrize(('launcher', 'count', 'local_rank'), [('pytorch', 1, 1), ('slurm', 2, 2)])
def test_more_ranks_than_gpus(monkeypatch, launcher, count, local_rank):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    with pytest.raises(LaunchError, match=f'local rank {local_rank} has no GPU: {count} are visible'):
        launch._choose_gpu(local_rank, 'nccl', launcher)


def threads_after_start(number: str | None) -> tuple[int, str]:
    torch.set_num_threads(3)
    os.environ.pop('OMP_NUM_THREADS', None)
    if number is not None:
        os.environ['OMP_NUM_THREADS'] = number
    start_distributed('pytorch')
    stop_distributed()
    return torch.get_num_threads(), os.environ['OMP_NUM_THREADS']


@pytest.mark.parametrize(('number', 'expected'), [(None, (1, '1')), ('3', (3, '3'))])
def test_ranks_have_one_thread_unless_the_user_says_otherwise(tmp_path, number, expected):
    """Torch is imported by then and reads the variable no more."""
    environment = pytorch_environment(0, 1, free_port())
    assert Ranks(threads_after_start, (number,), [environment], tmp_path).results() == [expected]


def test_error_aborts_nccl_instead_of_waiting_for_it(monkeypatch):
    calls = []
    monkeypatch.setattr(distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(distributed, 'get_backend', lambda: 'nccl')
    monkeypatch.setattr(distributed, 'destroy_process_group', lambda: calls.append('destroy'))
    monkeypatch.setattr(distributed.distributed_c10d, '_abort_process_group', lambda: calls.append('abort'))
    with pytest.raises(KeyError), launch.process_group('none'):
        raise KeyError('in a step')
    with launch.process_group('none'):
        pass
    assert calls == ['abort', 'destroy']


def serve_rank_1(ranks):
    """Answer rank 1 as rank 0 would, up to the point where both connect."""
    store = distributed.PrefixStore('attempt_0', ranks.store)
    store.set('job', json.dumps(['', 2]))
    ranks.wait_for(lambda: store.check(['rank_1']))


@pytest.fixture
def lonely_rank(tmp_path):
    """Rank 1 of 2, with a store where rank 0 should be."""
    store = distributed.TCPStore('127.0.0.1', 0, 2, is_master=True, wait_for_workers=False)
    ranks = start(tmp_path, 'pytorch', [pytorch_environment(1, 2, store.port)])
    ranks.store = store
    return ranks


def test_rank_that_dies_after_the_check_in(lonely_rank):
    serve_rank_1(lonely_rank)
    assert lonely_rank.wait(60) == [1]
    last = lonely_rank.log(0).strip().splitlines()[-1]
    assert last.startswith('error (rank 1): cannot connect to the other 1 ranks')


def test_rank_0_that_dies_at_the_check_in(lonely_rank):
    serve_rank_1(lonely_rank)
    lonely_rank.store = None
    assert lonely_rank.wait(60) == [1]
    last = lonely_rank.log(0).strip().splitlines()[-1]
    assert last.startswith('error (rank 1): no answer at 127.0.0.1')


def wait_for_a_late_one() -> float:
    start_distributed('pytorch', start_minutes=0.1, timeout_minutes=1.0)
    one = torch.ones(1)
    if distributed.get_rank() == 1:
        time.sleep(8)
    distributed.all_reduce(one)
    stop_distributed()
    return one.item()


@pytest.mark.slow
def test_patience_at_the_start_is_not_that_of_training(tmp_path):
    assert start_ranks(wait_for_a_late_one, (), 2, tmp_path / 'ranks').results() == [2, 2]
