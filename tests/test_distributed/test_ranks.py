"""The variables of each launcher give rank, world size and address; contradictions are named."""

import pytest

from thinktwice.distributed.ranks import first_host, process_names, rank_info
from thinktwice.errors import LaunchError

TORCHRUN = {
    'RANK': '3',
    'WORLD_SIZE': '4',
    'LOCAL_RANK': '1',
    'MASTER_ADDR': 'node0',
    'MASTER_PORT': '29500',
    'LOCAL_WORLD_SIZE': '2',
    'GROUP_WORLD_SIZE': '2',
    'TORCHELASTIC_USE_AGENT_STORE': 'True',
    'TORCHELASTIC_RESTART_COUNT': '2',
}
SLURM = {
    'SLURM_PROCID': '5',
    'SLURM_NTASKS': '16',
    'SLURM_LOCALID': '5',
    'SLURM_NODELIST': 'gpu[03-05,9],cpu1',
    'SLURM_JOB_ID': '70001',
}
OPEN_MPI = {
    'OMPI_COMM_WORLD_RANK': '1',
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
}


def test_torchrun_variables():
    info = rank_info('pytorch', TORCHRUN)
    assert (info.rank, info.world_size, info.local_rank) == (3, 4, 1)
    assert (info.address, info.port, info.agent_attempt) == ('node0', 29500, 2)
    assert rank_info('pytorch', without(TORCHRUN, 'TORCHELASTIC_USE_AGENT_STORE')).agent_attempt is None


def test_slurm_variables_give_the_first_host_and_a_port_of_the_job():
    info = rank_info('slurm', SLURM)
    assert (info.rank, info.world_size, info.local_rank, info.address) == (5, 16, 5, 'gpu03')
    assert info.port == 12000 + 70001 % 20000
    assert rank_info('slurm', {**SLURM, 'MASTER_ADDR': 'x', 'MASTER_PORT': '7'}).port == 7


def test_slurm_steps_of_one_job_meet_on_their_own_hosts_and_ports():
    first = rank_info('slurm', {**SLURM, 'SLURM_STEP_ID': '0'})
    second = rank_info('slurm', {**SLURM, 'SLURM_STEP_ID': '1', 'SLURM_STEP_NODELIST': 'gpu[05,9]'})
    assert (first.address, second.address) == ('gpu03', 'gpu05')
    assert first.port != second.port
    assert first.job != second.job


@pytest.mark.parametrize(
    ('environment', 'names'),
    [
        ({}, ('0', '0')),
        (TORCHRUN, ('3', '1')),
        (SLURM, ('5', '5')),
        (OPEN_MPI, ('1', '1')),
        ({**SLURM, **OPEN_MPI}, ('1', '1')),  # mpirun in a job; the step is that of the batch script
        ({'PMI_RANK': '4', 'MPI_LOCALRANKID': '2'}, ('4', '2')),
    ],
)
def test_process_is_named_by_the_variables_of_any_launcher(environment, names):
    assert process_names(environment) == names


@pytest.mark.parametrize(
    ('nodelist', 'host'),
    [
        ('a', 'a'),
        ('a,b', 'a'),
        ('n[7,9]', 'n7'),
        ('n[001-004]', 'n001'),
        ('x-1,y', 'x-1'),
        ('rack[2-3]n[05,7-9]-ib,cpu1', 'rack2n05-ib'),
    ],
)
def test_first_host_of_a_node_list(nodelist, host):
    assert first_host(nodelist) == host


def test_mpi_on_one_machine_needs_no_address():
    info = rank_info('mpi', OPEN_MPI)
    assert (info.rank, info.world_size, info.local_rank, info.address) == (1, 2, 1, '127.0.0.1')


def test_no_launcher_is_one_process():
    assert rank_info('none', {}) is None
    assert rank_info('none', {'WORLD_SIZE': '1', 'RANK': '0'}) is None


def without(environment: dict, name: str) -> dict:
    return {key: value for key, value in environment.items() if key != name}


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        ('none', TORCHRUN, 'one of 4 processes.*Add --launcher pytorch'),
        ('none', OPEN_MPI, 'Add --launcher mpi'),
        ('none', {'SLURM_STEP_NUM_TASKS': '8'}, 'Add --launcher slurm'),
        ('none', {'PMI_SIZE': '2'}, 'Add --launcher mpi'),
        ('none', {'PMI_SIZE': '8', 'SLURM_STEP_NUM_TASKS': '8'}, 'Add --launcher slurm'),
        ('pytorch', {}, 'variable RANK.*torchrun'),
        ('pytorch', without(TORCHRUN, 'MASTER_ADDR'), 'MASTER_ADDR'),
        ('pytorch', without(TORCHRUN, 'MASTER_PORT'), 'MASTER_PORT'),
        ('pytorch', {**TORCHRUN, 'WORLD_SIZE': 'two'}, "WORLD_SIZE must be an integer, got 'two'"),
        ('pytorch', {**TORCHRUN, 'LOCAL_RANK': 'x'}, "LOCAL_RANK must be an integer, got 'x'"),
        ('pytorch', {**TORCHRUN, 'MASTER_PORT': '99999'}, 'MASTER_PORT must be 1 ... 65535, got 99999'),
        ('slurm', {**SLURM, 'MASTER_PORT': 'x'}, "MASTER_PORT must be an integer, got 'x'"),
        ('pytorch', {**TORCHRUN, 'RANK': '4'}, 'rank 4 is outside a world of 4'),
        ('pytorch', {**TORCHRUN, 'GROUP_WORLD_SIZE': '1'}, 'WORLD_SIZE is 4, but the launcher started 2'),
        ('slurm', {}, 'SLURM_PROCID.*srun'),
        ('slurm', without(SLURM, 'SLURM_NODELIST'), 'neither MASTER_ADDR nor SLURM_NODELIST'),
        ('mpi', {}, 'mpirun'),
        ('mpi', {**OPEN_MPI, 'OMPI_COMM_WORLD_SIZE': '4'}, 'several machines needs MASTER_ADDR'),
        ('ssh', {}, 'must be one of none, pytorch, slurm, mpi'),
    ],
)
def test_wrong_combination_is_named(launcher, environment, message):
    with pytest.raises(LaunchError, match=message):
        rank_info(launcher, environment)
