"""Start-up of distributed runs, on GPUs (NCCL) and on the CPU (gloo).

mmengine 0.10.7 asks for a CUDA device whatever the backend, so this is ours;
once the group stands, mmengine's helpers are used everywhere.
"""

import errno
import gc
import os
import queue
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta

import torch
from torch import distributed

from thinktwice.distributed.ranks import STARTED_VARIABLE, ProcessPlace, find_place
from thinktwice.errors import LaunchError

MEETING = 'thinktwice/meeting'
CONNECT_TIME = timedelta(seconds=5)
"""For one attempt to reach a store whose host has just answered; torch itself makes two of them, silently."""


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
    meeting = _meet(store, place, start_minutes)
    # programs that read the environment (and restarted workers) see one convention
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK=str(place.local_rank),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
        **{STARTED_VARIABLE: '1'},
    )
    patience = timedelta(minutes=start_minutes)
    try:
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore(meeting, store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=patience,  # one that dies now is not to be waited for as long as a collective may take
        )
    except RuntimeError as error:
        raise LaunchError(
            f'the {place.world_size} processes have met, but cannot connect to each other '
            f'({_first_line(error)}): has one of them ended, or does a firewall stand between the machines?'
        ) from error
    distributed.set_timeout(timedelta(minutes=timeout_minutes))
    return place


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
    patience, start = timedelta(minutes=start_minutes), time.monotonic()
    while True:
        if serves:
            _check_name(place)
            _check_port(place)
        else:
            _wait_for_host(place, start, start_minutes)
        try:
            return connect(place, serves, patience)
        except RuntimeError as error:  # torch's DistError is one
            # rank 0 may have died since it answered: wait on for the one that takes its place, and say so
            if serves or time.monotonic() - start > patience.total_seconds():
                raise _lost_store(place, error) from error


def connect(place: ProcessPlace, serves: bool, patience: timedelta) -> distributed.Store:
    """Make the store, in a thread: if a stranger listens there and is silent, torch waits without end.

    Args:
        place: Where the store is; of the rest only the world size counts.
        serves: Make it here instead of reaching it there.
        patience: Longest wait of each later question to the store.

    Raises:
        DistError: Nobody answers as a store does.
    """
    answer: queue.SimpleQueue[distributed.Store | Exception] = queue.SimpleQueue()
    timeout = patience if serves else min(patience, CONNECT_TIME)

    def attempt() -> None:
        try:
            store = distributed.TCPStore(
                place.address, place.port, place.world_size, serves, timeout, wait_for_workers=False
            )
            store.set_timeout(patience)
            answer.put(store)
        except RuntimeError as error:
            answer.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        store = answer.get(timeout=patience.total_seconds() + 4 * CONNECT_TIME.total_seconds())
    except queue.Empty:
        raise distributed.DistError('something listens there, but it is no store of a run') from None
    if isinstance(store, Exception):
        raise store
    return store


def _check_name(place: ProcessPlace) -> None:
    """Torch reaches the store by its name on the serving process too, and takes long to say that it can't."""
    try:
        socket.getaddrinfo(place.address, place.port)
    except socket.gaierror as error:
        raise _unknown_host(place, error) from error


def _unknown_host(place: ProcessPlace, error: socket.gaierror) -> LaunchError:
    return LaunchError(f'host {place.address!r} (MASTER_ADDR) is unknown here: {error.strerror}')


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


def _wait_for_host(place: ProcessPlace, start: float, start_minutes: float) -> None:
    """Wait until rank 0 listens, so many minutes from ``start``; name what is awaited after five seconds."""
    is_said = False
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=5).close()
            return
        except socket.gaierror as error:
            raise _unknown_host(place, error) from error
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


def _meet(store: distributed.Store, place: ProcessPlace, start_minutes: float) -> str:
    """Wait until every rank has reported; rank 0 names those that have not.

    An elastic launcher keeps its store when it starts the processes again, be it
    after a failure or because a machine joined, so the store holds keys of
    processes long gone. Rank 0 therefore opens a meeting under a new name, and the
    others go only with one whose list of guests has them, by a name of their own.

    Returns:
        Prefix of the store's keys for this start alone.
    """
    attend = _host_meeting if place.rank == 0 else _join_meeting
    try:
        return attend(store, place, start_minutes)
    except distributed.DistError as error:
        raise _lost_store(place, error) from error


def _lost_store(place: ProcessPlace, error: Exception) -> LaunchError:
    return LaunchError(
        f'no answer at {place.address}:{place.port}, where the processes meet: {_first_line(error)}. '
        'Has rank 0 (or the launcher) ended? Its log says why'
    )


def _first_line(error: Exception) -> str:
    """Message of an error of torch, which goes on with the stack of its C++ code."""
    return str(error).partition('\n')[0].rstrip('.')


def _host_meeting(store: distributed.Store, place: ProcessPlace, start_minutes: float) -> str:
    meeting = f'{MEETING}/{uuid.uuid4().hex}'
    store.set(f'{meeting}/run', place.run)
    store.set(f'{meeting}/world_size', str(place.world_size))
    store.set(MEETING, meeting)
    missing, guests = list(range(1, place.world_size)), {0: uuid.uuid4().hex}
    start, said = time.monotonic(), 0.0
    while True:
        for rank in [rank for rank in missing if store.check([f'{meeting}/{rank}'])]:
            guests[rank] = store.get(f'{meeting}/{rank}').decode()
            missing.remove(rank)
        if not missing:
            store.set(f'{meeting}/guests', ' '.join(guests[rank] for rank in range(place.world_size)))
            return meeting
        waited = time.monotonic() - start
        names = ', '.join(map(str, missing[:8])) + (', ...' if len(missing) > 8 else '')
        if waited > 60 * start_minutes:
            raise LaunchError(
                f'after {waited:.0f} s, {len(missing)} of {place.world_size} processes have not appeared '
                f'(ranks {names}). Does WORLD_SIZE fit the number that was started?'
            )
        if waited - said > 5:
            said = waited
            _say(f'waiting for {len(missing)} of {place.world_size} processes (ranks {names})')
        time.sleep(0.05)


def _join_meeting(store: distributed.Store, place: ProcessPlace, start_minutes: float) -> str:
    name, joined, start = uuid.uuid4().hex, '', time.monotonic()
    while time.monotonic() - start <= 60 * start_minutes:
        meeting = store.get(MEETING).decode() if store.check([MEETING]) else ''
        if meeting and meeting != joined:
            joined = meeting
            _check_seat(store, place, meeting)
            store.set(f'{meeting}/{place.rank}', name)
        if joined and store.check([f'{joined}/guests']):
            guests = store.get(f'{joined}/guests').decode().split()
            if place.rank < len(guests) and guests[place.rank] == name:
                return joined
        time.sleep(0.05)
    raise LaunchError(
        f'rank {place.rank} waited {60 * start_minutes:.0f} s for all {place.world_size} processes. '
        'Does WORLD_SIZE fit the number that was started?'
    )


def _check_seat(store: distributed.Store, place: ProcessPlace, meeting: str) -> None:
    """Refuse what only a hand-made environment gets wrong; an elastic launcher numbers its processes."""
    if place.launcher_hosts_store:
        return
    run = store.get(f'{meeting}/run').decode()
    if run != place.run:
        raise LaunchError(
            f'another run ({run or "no name"}) meets at {place.address}:{place.port}, not that of '
            f'rank {place.rank} ({place.run or "no name"}): give each run a MASTER_PORT of its own'
        )
    world_size = int(store.get(f'{meeting}/world_size'))
    if world_size != place.world_size:
        raise LaunchError(
            f'rank {place.rank} was started as one of {place.world_size} processes, rank 0 as one of '
            f'{world_size}: WORLD_SIZE must be the same everywhere'
        )
    if store.add(f'{meeting}/claims/{place.rank}', 1) > 1:
        raise LaunchError(
            f'two processes claim rank {place.rank} of {place.world_size}: check RANK and WORLD_SIZE'
        )


def _say(message: str) -> None:
    """Print before any logger exists."""
    sys.stderr.write(f'train: {message}\n')
    sys.stderr.flush()


def stop_distributed() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        # A wrapped model that is part of a cycle keeps the group's threads until the interpreter is gone,
        # which now and then ended a finished run by SIGABRT.
        gc.collect()
        distributed.destroy_process_group()
