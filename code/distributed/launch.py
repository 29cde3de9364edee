"""Start and end of the process group, on GPUs (NCCL) and on the CPU (gloo).

``init_process_group`` does the work. What is added says in one line why a start fails: torch waits in silence
for missing ranks and for an address without a store, and takes the ranks of two jobs at one port for those of
one. mmengine 0.10.7's ``init_dist`` needs a CUDA device whatever the backend.
"""

import gc
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import ThreadPool
from typing import Any

import torch
from torch import distributed

from thinktwice.distributed.liveness import Liveness, failure_of
from thinktwice.distributed.ranks import STARTED_VARIABLE, RankInfo, rank_info
from thinktwice.errors import LaunchError, RankError, RunPreempted, StartError, describe

CONNECT_TIME = timedelta(seconds=5)
"""For one attempt to connect to a store; torch makes two of them."""
NOTICE_SECONDS = 2.0
"""In which a rank learns which other rank has failed, once its own connections are lost."""
_liveness: Liveness | None = None


@contextmanager
def process_group(launcher: str, **options: Any) -> Iterator[None]:
    """Process group for the work of a command; an error ends it without waiting for the other ranks.

    Args:
        launcher: See ``start_distributed``.
        options: See ``start_distributed``.

    Raises:
        RankError: The connection to another rank was lost.
    """
    start_distributed(launcher, **options)
    try:
        yield
    except RunPreempted:
        stop_distributed()  # all ranks stop
        raise
    except BaseException as error:
        if not isinstance(error, distributed.DistError) and '/gloo/' not in str(error):
            cause = f'{type(error).__name__}: {describe(error)}'
            if isinstance(error, StartError) and _rank_0_fails_alike(cause):
                stop_distributed('')
                raise SystemExit(1) from error
            stop_distributed(cause)
            raise
        first = _liveness.wait_for_failure(NOTICE_SECONDS) if _liveness is not None else None
        stop_distributed(f'lost its connections ({_cause(error)})' if first is None else '')
        raise RankError(f'another rank has failed, its log says why ({first or _cause(error)})') from error
    stop_distributed()


def _rank_0_fails_alike(cause: str) -> bool:
    """Whether rank 0 fails by the same cause and says so for all; False on rank 0."""
    if not distributed.is_initialized():
        return False
    is_rank_0 = distributed.get_rank() == 0
    if _liveness is not None:
        return not is_rank_0 and _liveness.wait_for_failure(NOTICE_SECONDS) == failure_of(0, cause)
    store = distributed.distributed_c10d._get_default_store()  # of torchrun's agent: it outlives rank 0
    if is_rank_0:
        store.set('start_failure', cause)
        return False
    end = time.monotonic() + NOTICE_SECONDS
    with suppress(distributed.DistError):  # the agent has ended, too
        while time.monotonic() < end:  # torch logs it if one waits for a key that does not come
            if store.check(['start_failure']):
                return store.get('start_failure').decode() == cause
            time.sleep(0.05)
    return False


def start_distributed(
    launcher: str, backend: str | None = None, start_minutes: float = 5.0, timeout_minutes: float = 30.0
) -> None:
    """Initialize the process group; does nothing for ``'none'``. Collective.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        backend: ``'nccl'`` or ``'gloo'``; None takes nccl where there are GPUs.
        start_minutes: How long to wait for all ranks. Those that are missing are named after five seconds.
        timeout_minutes: Longest time of one collective operation.

    Raises:
        LaunchError: The environment does not fit, a port is in use or ranks are missing.
    """
    global _liveness
    info = rank_info(launcher, os.environ)
    if info is None:
        return
    if 'OMP_NUM_THREADS' not in os.environ:  # torchrun sets it; for this process it is too late to do so
        torch.set_num_threads(1)
    for library in ('OMP', 'MKL'):  # for loader workers, and mmengine warns where it is not set
        os.environ.setdefault(f'{library}_NUM_THREADS', '1')
    backend = backend or ('nccl' if torch.cuda.is_available() else 'gloo')
    if torch.cuda.is_available():
        _choose_gpu(info.local_rank, backend, launcher)
    try:
        store = _open_store(info, start_minutes)
        _check_in(store, info, start_minutes)
        os.environ |= dict(
            RANK=str(info.rank),
            WORLD_SIZE=str(info.world_size),
            LOCAL_RANK=str(info.local_rank),
            MASTER_ADDR=info.address,
            MASTER_PORT=str(info.port),
        )
        distributed.init_process_group(
            backend,
            store=store,
            rank=info.rank,
            world_size=info.world_size,
            timeout=timedelta(minutes=start_minutes),  # a rank that dies now is noticed sooner
            device_id=torch.device('cuda', torch.cuda.current_device()) if backend == 'nccl' else None,
        )
        if info.agent_attempt is None and info.world_size > 1:  # else the launcher ends all ranks
            _liveness = Liveness(store, info.rank, info.world_size, info.address)
    except distributed.DistNetworkError as error:
        raise _no_answer(info, error) from error
    except (distributed.DistError, OSError) as error:
        raise LaunchError(
            f'cannot connect to the other {info.world_size - 1} ranks ({_cause(error)}): is one of them '
            'missing or has it ended (its log says why), or is there a firewall between the machines?'
        ) from error
    distributed.set_timeout(timedelta(minutes=timeout_minutes))
    os.environ[STARTED_VARIABLE] = '1'


def stop_distributed(failure: str | None = None) -> None:
    """Destroy the process group, if there is one.

    Args:
        failure: Why this rank fails, for the other ranks; empty if they know. Collectives that they may
            never join are not waited for.
    """
    global _liveness
    if _liveness is not None:
        _liveness.close(failure or None)
        _liveness = None
    if not distributed.is_initialized():
        return
    # A wrapped model that is part of a cycle keeps the group's threads until the interpreter is gone,
    # which now and then ended a finished run by SIGABRT.
    gc.collect()
    if failure is not None and distributed.get_backend() == 'nccl':
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def _choose_gpu(local_rank: int, backend: str, launcher: str) -> None:
    count = torch.cuda.device_count()
    sees_own_gpu = count == 1 and launcher != 'pytorch'  # as with srun --gpus-per-task=1
    if backend == 'nccl' and local_rank >= count and not sees_own_gpu:
        raise LaunchError(
            f'local rank {local_rank} has no GPU: {count} are visible. Start at most {count} ranks per '
            'machine (--nproc_per_node), or check CUDA_VISIBLE_DEVICES.'
        )
    torch.cuda.set_device(local_rank % count)


def _open_store(info: RankInfo, start_minutes: float) -> distributed.Store:
    """Serve the key-value store of the run (rank 0), or connect to it."""
    try:
        socket.getaddrinfo(info.address, info.port)  # torch takes long to say that it can't
    except socket.gaierror as error:
        raise LaunchError(f'host {info.address!r} (MASTER_ADDR) is unknown here: {error.strerror}') from error
    is_server = info.rank == 0 and info.agent_attempt is None
    store = _serve(info) if is_server else _connect(info, start_minutes)
    store.set_timeout(timedelta(minutes=start_minutes))
    # the agent of torchrun keeps its store when it restarts the ranks, with the addresses of the old ones
    return distributed.PrefixStore(f'attempt_{info.agent_attempt or 0}', store)


def _serve(info: RankInfo) -> distributed.Store:
    with socket.socket() as probe:  # torch warns in several lines
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', info.port))
        except OSError as error:
            raise LaunchError(
                f'cannot listen on port {info.port} ({error.strerror}): if it is in use on this machine, '
                'perhaps by another run, choose another with --master_port (torch.distributed.launch, '
                'torchrun) or MASTER_PORT (slurm, mpi)'
            ) from error
    return distributed.TCPStore(info.address, info.port, is_master=True, wait_for_workers=False)


def _connect(info: RankInfo, start_minutes: float) -> distributed.Store:
    """Connect to the store, which rank 0 may open later; say after five seconds what is awaited."""
    start, is_said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((info.address, info.port), timeout=5).close()
            # in a thread: torch waits forever for a service that accepts connections and says nothing
            arguments = (info.address, info.port, None, False, CONNECT_TIME, False)
            with ThreadPool(1) as pool:
                return pool.apply_async(distributed.TCPStore, arguments).get(20)
        except (OSError, RuntimeError, PoolTimeoutError) as error:
            waited = time.monotonic() - start
            if waited > 60 * start_minutes:
                raise _no_answer(info, error) from error
        if waited > 5 and not is_said:
            is_said = True
            _say(f'rank {info.rank} is waiting for rank 0 at {info.address}:{info.port}')
        time.sleep(0.2)


def _check_in(store: distributed.Store, info: RankInfo, start_minutes: float) -> None:
    """Tell rank 0 that this rank is here; rank 0 waits for all and names those that are missing."""
    if info.rank == 0:
        store.set('job', json.dumps([info.job, info.world_size]))
        _wait_for_ranks(store, info.world_size, start_minutes)
        return
    if info.agent_attempt is None:  # the environment may have been set by hand
        job, world_size = json.loads(store.get('job'))
        if job != info.job:
            raise LaunchError(
                f'another run ({job or "no name"}) listens at {info.address}:{info.port}, not that of '
                f'rank {info.rank} ({info.job or "no name"}): give each run a MASTER_PORT of its own'
            )
        if world_size != info.world_size:
            raise LaunchError(
                f'rank {info.rank} was started as one of {info.world_size} ranks, rank 0 as one of '
                f'{world_size}: WORLD_SIZE must be the same everywhere'
            )
    if store.add(f'rank_{info.rank}', 1) > 1 and info.agent_attempt is None:
        raise LaunchError(
            f'two processes have rank {info.rank} of {info.world_size}: check RANK and WORLD_SIZE'
        )


def _wait_for_ranks(store: distributed.Store, world_size: int, start_minutes: float) -> None:
    start, said, missing = time.monotonic(), 0.0, list(range(1, world_size))
    while missing := [rank for rank in missing if not store.check([f'rank_{rank}'])]:
        waited = time.monotonic() - start
        names = ', '.join(map(str, missing[:8])) + (', ...' if len(missing) > 8 else '')
        if waited > 60 * start_minutes:
            raise LaunchError(
                f'after {waited:.0f} s, {len(missing)} of {world_size} ranks are missing (ranks {names}). '
                'Does WORLD_SIZE fit the number that was started?'
            )
        if waited - said > 5:
            said = waited
            _say(f'waiting for {len(missing)} of {world_size} ranks (ranks {names})')
        time.sleep(0.05)


def _no_answer(info: RankInfo, error: Exception) -> LaunchError:
    return LaunchError(
        f'no answer at {info.address}:{info.port}, the address of rank 0 ({_cause(error)}): '
        'has rank 0 or the launcher ended (its log says why), is the address right, is the port open?'
    )


def _cause(error: BaseException) -> str:
    """What an error of torch, gloo or NCCL says, without source lines, general advice and the C++ stack."""
    text = str(error).partition('Last error:\n')[2] or str(error)
    text = re.sub(r'\[\S*/gloo/\S*\] |\. This is typically caused by .*', '', text.partition('\n')[0])
    return text.rstrip('.') or type(error).__name__


def _say(message: str) -> None:
    """Print before any logger exists."""
    sys.stderr.write(f'train: {message}\n')
    sys.stderr.flush()
