"""Which process of how many this is, as each launcher says it in the environment."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from thinktwice.errors import LaunchError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


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
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    launcher_hosts_store: bool = False


def _integer(environment: Mapping[str, str], name: str, launcher: str, hint: str) -> int:
    value = environment.get(name)
    if value is None:
        raise LaunchError(
            f'--launcher {launcher} needs the environment variable {name}, which is not set. {hint}'
        )
    try:
        return int(value)
    except ValueError:
        raise LaunchError(f'environment variable {name} must be an integer, got {value!r}') from None


def check_no_launcher(environment: Mapping[str, str]) -> None:
    """Refuse to train the same thing several times over when ``--launcher`` was forgotten.

    Raises:
        LaunchError: The environment shows several processes.
    """
    signs = {'pytorch': 'WORLD_SIZE', 'mpi': 'OMPI_COMM_WORLD_SIZE'}
    for launcher, name in signs.items():
        if environment.get(name, '1').isdigit() and int(environment.get(name, '1')) > 1:
            raise LaunchError(
                f'this is one of {environment[name]} processes (see {name}), but --launcher is '
                f"'none': each would train alone and overwrite the others' files. Add --launcher {launcher}."
            )
    # inside an interactive allocation SLURM_NTASKS is set without srun having started anything
    if 'SLURM_STEP_NUM_TASKS' in environment and int(environment['SLURM_STEP_NUM_TASKS']) > 1:
        raise LaunchError(
            f'this is one of {environment["SLURM_STEP_NUM_TASKS"]} processes of srun, but --launcher is '
            "'none'. Add --launcher slurm."
        )


def pytorch_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Place by torchrun's variables.

    Raises:
        LaunchError: A variable is missing, or they contradict each other.
    """
    hint = 'Start with `torchrun --nproc_per_node=N train.py ...` or `python -m torch.distributed.launch`.'
    rank = _integer(environment, 'RANK', 'pytorch', hint)
    world_size = _integer(environment, 'WORLD_SIZE', 'pytorch', hint)
    local_rank = int(environment.get('LOCAL_RANK', rank))
    port = _integer(environment, 'MASTER_PORT', 'pytorch', hint)
    if 'MASTER_ADDR' not in environment:
        raise LaunchError(
            f'--launcher pytorch needs the environment variable MASTER_ADDR (host of rank 0). {hint}'
        )
    local_size, nodes = environment.get('LOCAL_WORLD_SIZE'), environment.get('GROUP_WORLD_SIZE')
    if local_size and nodes and int(nodes) == 1 and int(local_size) != world_size:
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
        raise LaunchError(f'SLURM_NODELIST {nodelist!r} names no host; set MASTER_ADDR')
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
    if 'MASTER_ADDR' in environment:
        address = environment['MASTER_ADDR']
    elif 'SLURM_NODELIST' in environment:
        address = first_host(environment['SLURM_NODELIST'])
    else:
        raise LaunchError(f'neither MASTER_ADDR nor SLURM_NODELIST is set. {hint}')
    # two jobs on one machine must not meet on one port
    default_port = 12000 + int(environment.get('SLURM_JOB_ID', 0)) % 20000
    return ProcessPlace(
        rank, world_size, local_rank, address, int(environment.get('MASTER_PORT', default_port))
    )


def mpi_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Place by the variables of Open MPI, or of MPICH and Intel MPI.

    Raises:
        LaunchError: A variable is missing.
    """
    hint = 'Start with `mpirun -np N python train.py ...`.'
    if 'OMPI_COMM_WORLD_RANK' in environment:
        names = ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK')
        local_size = environment.get('OMPI_COMM_WORLD_LOCAL_SIZE')
    else:
        names = ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID')
        local_size = environment.get('MPI_LOCALNRANKS')
    rank = _integer(environment, names[0], 'mpi', hint)
    world_size = _integer(environment, names[1], 'mpi', hint)
    local_rank = int(environment.get(names[2], rank))
    address = environment.get('MASTER_ADDR')
    if address is None:
        if local_size is None or int(local_size) != world_size:
            raise LaunchError(
                'mpirun over several machines needs MASTER_ADDR (host of rank 0): '
                'mpirun -x MASTER_ADDR=<host> -x MASTER_PORT=29500 ...'
            )
        address = '127.0.0.1'
    return ProcessPlace(rank, world_size, local_rank, address, int(environment.get('MASTER_PORT', 29500)))


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
    return place
