"""Start-up of distributed runs, on GPUs (NCCL) and on the CPU (gloo).

mmengine 0.10.7 asks for a CUDA device whatever the backend, so this is ours;
once the group stands, mmengine's helpers are used everywhere.
"""

import errno
import os
import socket
import sys
import time
from datetime import timedelta

import torch
from torch import distributed

from thinktwice.apis.launch_env import ProcessPlace, find_place
from thinktwice.errors import LaunchError

PRESENT = 'thinktwice/present/'


def start_distributed(
    launcher: str, backend: str | None = None, start_minutes: float = 5.0, timeout_minutes: float = 30.0
) -> ProcessPlace | None:
    """Join the other processes of the run; does nothing for ``'none'``. Collective.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        backend: ``'nccl'`` or ``'gloo'``; None takes nccl where there are GPUs.
        start_minutes: How long to wait for all processes to appear. Those that are
            missing are named after a few seconds.
        timeout_minutes: Longest time of one collective operation.

    Returns:
        The place of this process, None if it is alone.

    Raises:
        LaunchError: The environment does not fit, a port is busy or processes are missing.
    """
    place = find_place(launcher, os.environ)
    if place is None:
        return None
    backend = backend or ('nccl' if torch.cuda.is_available() else 'gloo')
    if torch.cuda.is_available():
        _take_gpu(place, backend)
    store = _open_store(place, start_minutes)
    _wait_for_all(store, place, start_minutes)
    # programs that read the environment (and restarted workers) see one convention
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK=str(place.local_rank),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore(f'group/{_attempt()}', store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(minutes=timeout_minutes),
    )
    return place


def _attempt() -> str:
    """Number of the restart under torchrun, whose store outlives its workers."""
    return os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')


def _take_gpu(place: ProcessPlace, backend: str) -> None:
    count = torch.cuda.device_count()
    if backend == 'nccl' and place.local_rank >= count:
        raise LaunchError(
            f'process {place.local_rank} of this machine has no GPU: {count} are visible. '
            f'Start at most {count} processes a machine (--nproc_per_node), or check CUDA_VISIBLE_DEVICES.'
        )
    torch.cuda.set_device(place.local_rank % count)


def _open_store(place: ProcessPlace, start_minutes: float) -> distributed.Store:
    """Serve (rank 0) or reach the key-value store through which processes find each other."""
    serves = place.rank == 0 and not place.launcher_hosts_store
    if serves:
        _check_port(place)
    else:
        _wait_for_host(place, start_minutes)
    try:
        return distributed.TCPStore(
            place.address,
            place.port,
            place.world_size,
            is_master=serves,
            timeout=timedelta(minutes=start_minutes),
            wait_for_workers=False,
        )
    except (RuntimeError, distributed.DistError) as error:
        raise LaunchError(f'cannot join the run at {place.address}:{place.port}: {error}') from error


def _check_port(place: ProcessPlace) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', place.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LaunchError(f'cannot listen on port {place.port}: {error.strerror}') from error
            raise LaunchError(
                f'port {place.port} is in use on this machine, perhaps by another run: choose another with '
                '--master_port (torch.distributed.launch, torchrun) or MASTER_PORT (slurm, mpi)'
            ) from error


def _wait_for_host(place: ProcessPlace, start_minutes: float) -> None:
    """Wait until rank 0 listens; name what is awaited after five seconds."""
    start, is_said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=5).close()
            return
        except socket.gaierror as error:
            raise LaunchError(
                f'host {place.address!r} (MASTER_ADDR) is unknown here: {error.strerror}'
            ) from error
        except OSError as error:
            waited = time.monotonic() - start
            if waited > 60 * start_minutes:
                raise LaunchError(
                    f'rank 0 does not answer at {place.address}:{place.port} after {waited:.0f} s '
                    f'({error.strerror or error}): is it running, is the address right, is the port open?'
                ) from error
            if waited > 5 and not is_said:
                is_said = True
                _say(f'rank {place.rank} is waiting for rank 0 at {place.address}:{place.port}')
            time.sleep(0.2)


def _wait_for_all(store: distributed.Store, place: ProcessPlace, start_minutes: float) -> None:
    """Wait until every rank has reported; rank 0 names those that have not."""
    prefix = f'{PRESENT}{_attempt()}/'
    if store.add(f'{prefix}{place.rank}', 1) > 1:
        raise LaunchError(
            f'two processes claim rank {place.rank} of {place.world_size}: check RANK and WORLD_SIZE'
        )
    missing = list(range(place.world_size))
    start, said = time.monotonic(), 0.0
    while True:
        missing = [rank for rank in missing if not store.check([f'{prefix}{rank}'])]
        if not missing:
            return
        waited = time.monotonic() - start
        names = ', '.join(map(str, missing[:8])) + (', ...' if len(missing) > 8 else '')
        if waited > 60 * start_minutes:
            raise LaunchError(
                f'after {waited:.0f} s, {len(missing)} of {place.world_size} processes have not appeared '
                f'(ranks {names}). Does WORLD_SIZE fit the number that was started?'
            )
        if place.rank == 0 and waited - said > 5:
            said = waited
            _say(f'waiting for {len(missing)} of {place.world_size} processes (ranks {names})')
        time.sleep(0.05)


def _say(message: str) -> None:
    """Print before any logger exists."""
    sys.stderr.write(f'train: {message}\n')
    sys.stderr.flush()


def stop_distributed() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
