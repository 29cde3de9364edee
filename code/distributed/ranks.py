"""Rank, world size and address of rank 0, from the environment variables of each launcher."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from thinktwice.errors import LaunchError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
STARTED_VARIABLE = 'THINKTWICE_STARTED'
"""Set in the environment once the process group is initialized."""

TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
OPEN_MPI = ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK')
MPICH = ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID')
SLURM = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')
HINTS = {
    'pytorch': 'Start with `torchrun --nproc_per_node=N train.py` or `python -m torch.distributed.launch`.',
    'slurm': 'Start with `srun --ntasks-per-node=N python train.py ...` or tools/slurm_train.sh.',
    'mpi': 'Start with `mpirun -np N python train.py ...`.',
}


@dataclass(frozen=True)
class RankInfo:
    """One rank of a distributed run.

    Attributes:
        rank: Global rank, 0 .. world_size - 1.
        world_size: Number of ranks.
        local_rank: Rank on its machine.
        address: Host of rank 0.
        port: TCP port on that host.
        job: Tells the ranks of this job from those of another at the same port; may be empty.
        agent_attempt: Number of restarts so far if torchrun's agent serves the store at that port; None if
            rank 0 does.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    job: str = ''
    agent_attempt: int | None = None


def rank_info(launcher: str, environment: Mapping[str, str]) -> RankInfo | None:
    """Read what the launcher says about this process; None for ``'none'``.

    Args:
        launcher: One of ``LAUNCHERS``.
        environment: Usually ``os.environ``.

    Raises:
        LaunchError: A variable is missing or wrong, or ``'none'`` was given to one of several processes.
    """
    if launcher not in LAUNCHERS:
        raise LaunchError(f'--launcher must be one of {", ".join(LAUNCHERS)}, got {launcher!r}')
    if launcher == 'none':
        _refuse_forgotten_launcher(environment)
        return None
    mpi = OPEN_MPI if OPEN_MPI[0] in environment else MPICH
    names = {'pytorch': TORCHRUN, 'slurm': SLURM, 'mpi': mpi}[launcher]
    rank, world_size = (_integer(environment, name, launcher) for name in names[:2])
    if not 0 <= rank < world_size:
        raise LaunchError(f'rank {rank} is outside a world of {world_size} ranks')
    address, port, job = {'pytorch': _of_torchrun, 'slurm': _of_slurm, 'mpi': _of_mpi}[launcher](
        environment, world_size
    )
    if not 0 < port < 65536:
        raise LaunchError(f'MASTER_PORT must be 1 ... 65535, got {port}')
    has_agent = launcher == 'pytorch' and environment.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
    attempt = _integer(environment, 'TORCHELASTIC_RESTART_COUNT', launcher, 0) if has_agent else None
    local_rank = _integer(environment, names[2], launcher, rank)
    return RankInfo(rank, world_size, local_rank, address, port, job, attempt)


def _of_torchrun(environment: Mapping[str, str], world_size: int) -> tuple[str, int, str]:
    if 'MASTER_ADDR' not in environment:
        raise _missing('MASTER_ADDR', 'pytorch')
    local_size = _integer(environment, 'LOCAL_WORLD_SIZE', 'pytorch', world_size)
    if _integer(environment, 'GROUP_WORLD_SIZE', 'pytorch', 0) == 1 and local_size != world_size:
        raise LaunchError(
            f'WORLD_SIZE is {world_size}, but the launcher started {local_size} ranks on 1 machine; '
            'do not set WORLD_SIZE by hand'
        )
    return environment['MASTER_ADDR'], _integer(environment, 'MASTER_PORT', 'pytorch'), ''


def _of_slurm(environment: Mapping[str, str], world_size: int) -> tuple[str, int, str]:
    # a step may run on only some of the machines of its job
    nodes = environment.get('SLURM_STEP_NODELIST') or environment.get('SLURM_NODELIST')
    if not nodes and 'MASTER_ADDR' not in environment:
        raise LaunchError(f'neither MASTER_ADDR nor SLURM_NODELIST is set. {HINTS["slurm"]}')
    job, step = (_integer(environment, name, 'slurm', 0) for name in ('SLURM_JOB_ID', 'SLURM_STEP_ID'))
    # two jobs on one machine, or two steps of one job, need different ports
    port = _integer(environment, 'MASTER_PORT', 'slurm', 12000 + (job + 101 * step) % 20000)
    return environment.get('MASTER_ADDR') or first_host(nodes or ''), port, f'job step {job}.{step}'


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list such as ``gpu[03-05,9]-ib,cpu1``."""
    match = re.match(r'(?:[^,\[\]]|\[[^\]]*\])+', nodelist)
    if match is None:
        raise LaunchError(f'node list {nodelist!r} of Slurm names no host; set MASTER_ADDR')
    return re.sub(r'\[([^\],-]*)[^\]]*\]', r'\1', match.group())


def _of_mpi(environment: Mapping[str, str], world_size: int) -> tuple[str, int, str]:
    sizes = (environment.get(name) for name in ('OMPI_COMM_WORLD_LOCAL_SIZE', 'MPI_LOCALNRANKS'))
    if 'MASTER_ADDR' not in environment and str(world_size) not in sizes:
        raise LaunchError(
            'mpirun over several machines needs MASTER_ADDR (host of rank 0): '
            'mpirun -x MASTER_ADDR=<host> -x MASTER_PORT=29500 ...'
        )
    port = _integer(environment, 'MASTER_PORT', 'mpi', 29500)
    # Open MPI names each mpirun; MPICH does not
    return environment.get('MASTER_ADDR', '127.0.0.1'), port, environment.get('PMIX_NAMESPACE', '')


def _refuse_forgotten_launcher(environment: Mapping[str, str]) -> None:
    """Refuse to train the same thing several times over."""
    signs = {
        'WORLD_SIZE': 'pytorch',
        'OMPI_COMM_WORLD_SIZE': 'mpi',
        # inside an interactive allocation SLURM_NTASKS is set although srun has started nothing
        'SLURM_STEP_NUM_TASKS': 'slurm',
        'PMI_SIZE': 'mpi',  # last: srun may set it too
    }
    for name, launcher in signs.items():
        if environment.get(name, '1').isdigit() and int(environment.get(name, '1')) > 1:
            raise LaunchError(
                f'this is one of {environment[name]} processes (see {name}), but --launcher is '
                f"'none': each would train alone and overwrite the others' files. Add --launcher {launcher}."
            )


def process_names(environment: Mapping[str, str]) -> tuple[str, str]:
    """Rank and local rank as any launcher sets them, for messages before the process group exists."""
    # mpirun inside of a Slurm job inherits the variables of the step that runs it
    launchers = (TORCHRUN, OPEN_MPI, MPICH, SLURM)
    rank, _, local_rank = (
        next((environment[name] for name in names if name in environment), '0')
        for names in zip(*launchers, strict=True)
    )
    return rank, local_rank


def _integer(environment: Mapping[str, str], name: str, launcher: str, default: int | None = None) -> int:
    if name not in environment:
        if default is None:
            raise _missing(name, launcher)
        return default
    try:
        return int(environment[name])
    except ValueError:
        raise LaunchError(
            f'environment variable {name} must be an integer, got {environment[name]!r}'
        ) from None


def _missing(name: str, launcher: str) -> LaunchError:
    return LaunchError(
        f'--launcher {launcher} needs the environment variable {name}, which is not set. {HINTS[launcher]}'
    )
