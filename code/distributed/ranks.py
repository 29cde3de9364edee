"""Which process of how many this is, as each launcher says it in the environment."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from thinktwice.errors import LaunchError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
STARTED_VARIABLE = 'THINKTWICE_STARTED'
"""Set in the environment once the processes of a run have met."""


@dataclass(frozen=True)
class ProcessPlace:
    """Place of one process in a distributed run.

    Attributes:
        rank: Number of the process, 0 .. world_size - 1.
        world_size: Number of processes.
        local_rank: Number of the process on its machine; picks the GPU.
        address: Host of the process of rank 0.
        port: TCP port on that host.
        launcher_hosts_store: The launcher itself listens on the port (torchrun does).
        run: What tells this run from another that may listen on the same port; empty if nothing does.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    launcher_hosts_store: bool = False
    run: str = ''


def _integer(environment: Mapping[str, str], name: str, launcher: str, hint: str) -> int:
    value = environment.get(name)
    if value is None:
        raise LaunchError(
            f'--launcher {launcher} needs the environment variable {name}, which is not set. {hint}'
        )
    return _parse(name, value)


def _optional_integer(environment: Mapping[str, str], name: str, default: int) -> int:
    return _parse(name, environment[name]) if name in environment else default


def _parse(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise LaunchError(f'environment variable {name} must be an integer, got {value!r}') from None


def process_names(environment: Mapping[str, str]) -> tuple[str, str]:
    """Rank and local rank as the environment has them, for messages of processes that may not have met."""
    # mpirun inside of a Slurm job inherits the variables of the step that runs it
    ranks = ('RANK', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'SLURM_PROCID')
    local_ranks = ('LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID', 'SLURM_LOCALID')
    rank, local_rank = (
        next((environment[name] for name in names if name in environment), '0')
        for names in (ranks, local_ranks)
    )
    return rank, local_rank


def check_no_launcher(environment: Mapping[str, str]) -> None:
    """Refuse to train the same thing several times over when ``--launcher`` was forgotten.

    Raises:
        LaunchError: The environment shows several processes.
    """
    signs = {
        'WORLD_SIZE': 'pytorch',
        'OMPI_COMM_WORLD_SIZE': 'mpi',
        # inside an interactive allocation SLURM_NTASKS is set without srun having started anything
        'SLURM_STEP_NUM_TASKS': 'slurm',
        'PMI_SIZE': 'mpi',  # last: srun may set it too
    }
    for name, launcher in signs.items():
        if environment.get(name, '1').isdigit() and int(environment.get(name, '1')) > 1:
            raise LaunchError(
                f'this is one of {environment[name]} processes (see {name}), but --launcher is '
                f"'none': each would train alone and overwrite the others' files. Add --launcher {launcher}."
            )


def pytorch_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Place by torchrun's variables.

    Raises:
        LaunchError: A variable is missing, or they contradict each other.
    """
    hint = 'Start with `torchrun --nproc_per_node=N train.py ...` or `python -m torch.distributed.launch`.'
    rank = _integer(environment, 'RANK', 'pytorch', hint)
    world_size = _integer(environment, 'WORLD_SIZE', 'pytorch', hint)
    local_rank = _optional_integer(environment, 'LOCAL_RANK', rank)
    port = _integer(environment, 'MASTER_PORT', 'pytorch', hint)
    if 'MASTER_ADDR' not in environment:
        raise LaunchError(
            f'--launcher pytorch needs the environment variable MASTER_ADDR (host of rank 0). {hint}'
        )
    local_size = _optional_integer(environment, 'LOCAL_WORLD_SIZE', world_size)
    if _optional_integer(environment, 'GROUP_WORLD_SIZE', 0) == 1 and local_size != world_size:
        raise LaunchError(
            f'WORLD_SIZE is {world_size}, but the launcher started {local_size} processes on 1 machine; '
            'do not set WORLD_SIZE by hand'
        )
    # TORCHELASTIC_USE_AGENT_STORE: the elastic agent serves the key-value store on that port
    hosts = environment.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
    return ProcessPlace(rank, world_size, local_rank, environment['MASTER_ADDR'], port, hosts)


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list such as ``gpu[03-05,9],cpu1``."""
    if shutil.which('scontrol'):
        answer = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodelist],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.split()[0]
    match = re.match(r'([^\[,]+)(?:\[([^\]]+)\])?', nodelist)
    if match is None:
        raise LaunchError(f'node list {nodelist!r} of Slurm names no host; set MASTER_ADDR')
    prefix, numbers = match.groups()
    return prefix + (re.split('[-,]', numbers)[0] if numbers else '')


def slurm_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Place by the variables of ``srun``.

    Raises:
        LaunchError: A variable is missing, or they contradict each other.
    """
    hint = 'Start with `srun --ntasks-per-node=N python train.py ...` or tools/slurm_train.sh.'
    rank = _integer(environment, 'SLURM_PROCID', 'slurm', hint)
    world_size = _integer(environment, 'SLURM_NTASKS', 'slurm', hint)
    local_rank = _integer(environment, 'SLURM_LOCALID', 'slurm', hint)
    # a step may run on only some of the machines of its job
    nodes = environment.get('SLURM_STEP_NODELIST') or environment.get('SLURM_NODELIST')
    if 'MASTER_ADDR' in environment:
        address = environment['MASTER_ADDR']
    elif nodes:
        address = first_host(nodes)
    else:
        raise LaunchError(f'neither MASTER_ADDR nor SLURM_NODELIST is set. {hint}')
    job = _optional_integer(environment, 'SLURM_JOB_ID', 0)
    step = _optional_integer(environment, 'SLURM_STEP_ID', 0)
    # two jobs on one machine, or two steps of one job, must not meet on one port
    port = _optional_integer(environment, 'MASTER_PORT', 12000 + (job + 101 * step) % 20000)
    return ProcessPlace(rank, world_size, local_rank, address, port, run=f'job step {job}.{step}')


def mpi_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Place by the variables of Open MPI, or of MPICH and Intel MPI.

    Raises:
        LaunchError: A variable is missing.
    """
    hint = 'Start with `mpirun -np N python train.py ...`.'
    if 'OMPI_COMM_WORLD_RANK' in environment:
        names = ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK')
        local_size = _optional_integer(environment, 'OMPI_COMM_WORLD_LOCAL_SIZE', 0)
    else:
        names = ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID')
        local_size = _optional_integer(environment, 'MPI_LOCALNRANKS', 0)
    rank = _integer(environment, names[0], 'mpi', hint)
    world_size = _integer(environment, names[1], 'mpi', hint)
    local_rank = _optional_integer(environment, names[2], rank)
    address = environment.get('MASTER_ADDR')
    if address is None:
        if local_size != world_size:
            raise LaunchError(
                'mpirun over several machines needs MASTER_ADDR (host of rank 0): '
                'mpirun -x MASTER_ADDR=<host> -x MASTER_PORT=29500 ...'
            )
        address = '127.0.0.1'
    port = _optional_integer(environment, 'MASTER_PORT', 29500)
    # Open MPI names each mpirun; MPICH does not
    return ProcessPlace(
        rank, world_size, local_rank, address, port, run=environment.get('PMIX_NAMESPACE', '')
    )


def find_place(launcher: str, environment: Mapping[str, str]) -> ProcessPlace | None:
    """Place of this process, None if it is alone.

    Args:
        launcher: One of ``LAUNCHERS``.
        environment: Usually ``os.environ``.

    Raises:
        LaunchError: The environment does not fit the launcher.
    """
    if launcher not in LAUNCHERS:
        raise LaunchError(f'--launcher must be one of {", ".join(LAUNCHERS)}, got {launcher!r}')
    if launcher == 'none':
        check_no_launcher(environment)
        return None
    place = {'pytorch': pytorch_place, 'slurm': slurm_place, 'mpi': mpi_place}[launcher](environment)
    if not 0 <= place.rank < place.world_size:
        raise LaunchError(f'rank {place.rank} is outside a world of {place.world_size} processes')
    if not 0 < place.port < 65536:
        raise LaunchError(f'MASTER_PORT must be 1 ... 65535, got {place.port}')
    return place
