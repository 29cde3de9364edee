"""Connections by which each rank learns that another has ended, whatever the backend.

A rank that waits in a collective of gloo fails when another rank ends, because gloo's connection to it
closes. NCCL does not notice it where the two share a machine: the rank waits until the collective times out.
torchrun and mpirun end the other ranks; without them (processes started by hand, ``srun`` without
``--kill-on-bad-exit``) it is these connections that end them: each rank has one to rank 0. The operating
system closes it however a process ends, and TCP keepalive notices that a machine is gone.
"""

import os
import selectors
import socket
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from torch import distributed

GRACE_SECONDS = 20.0
"""Time for this rank to end by itself once another has ended, as it does with gloo."""
CONNECT_SECONDS = 60.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}  # 35 s
DONE = 'done'


class Liveness:
    """Watches the other ranks; if one fails and this rank does not end within a grace time, ends its process.

    Rank 0 tells the other ranks about the failure of one.

    Args:
        store: Where rank 0 publishes its port.
        rank: Of this process.
        world_size: Number of ranks.
        address: Host of rank 0.

    Raises:
        OSError: The ranks cannot connect.
    """

    def __init__(self, store: distributed.Store, rank: int, world_size: int, address: str) -> None:
        self._rank = rank
        self._failure: str | None = None
        self._has_failed = threading.Event()
        self._is_closed = threading.Event()
        self._peers: dict[int, tuple[socket.socket, BinaryIO]] = {}
        if rank == 0:
            self._accept(store, world_size)
        else:
            port, token = store.get('liveness').decode().split()
            peer = socket.create_connection((address, int(port)), CONNECT_SECONDS)
            self._peers[0] = peer, peer.makefile('rb')
            _send(peer, f'{token} {rank}')
        for peer, _ in self._peers.values():
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                peer.setsockopt(socket.IPPROTO_TCP, option, value)
        self._thread = threading.Thread(target=self._watch, name='liveness', daemon=True)
        self._thread.start()

    def _accept(self, store: distributed.Store, world_size: int) -> None:
        token = os.urandom(16).hex()
        with socket.create_server(('', 0), backlog=world_size) as server:
            server.settimeout(CONNECT_SECONDS)
            store.set('liveness', f'{server.getsockname()[1]} {token}')
            while len(self._peers) < world_size - 1:
                peer, _ = server.accept()
                peer.settimeout(5)
                reader = peer.makefile('rb')
                sent_token, _, rank = _read(reader).partition(' ')
                if sent_token == token:
                    self._peers[int(rank)] = peer, reader
                else:  # not a rank of this run
                    peer.close()

    def wait_for_failure(self, seconds: float) -> str | None:
        """Which other rank has failed and why; None if none does within some seconds."""
        self._has_failed.wait(seconds)
        return self._failure

    def close(self, cause: str | None = None) -> None:
        """Stop watching.

        Args:
            cause: Why this rank fails; None if it is done, or fails because another rank did.
        """
        self._is_closed.set()
        for peer, _ in self._peers.values():
            _send(peer, DONE if cause is None else failure_of(self._rank, cause))
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for peer, reader in self._peers.values():
            reader.close()
            peer.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, (peer, _) in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    message = _read(self._peers[key.data][1])
                    if self._is_closed.is_set():
                        return
                    if message != DONE:
                        self._end(message or f'rank {key.data} was killed, or its machine is gone')
                        return
                    selector.unregister(key.fileobj)

    def _end(self, failure: str) -> None:
        self._failure = failure
        self._has_failed.set()
        if self._rank == 0:
            for peer, _ in self._peers.values():
                _send(peer, failure)
        if not self._is_closed.wait(GRACE_SECONDS):
            sys.stderr.write(f'error (rank {self._rank}): {failure}\n')
            sys.stderr.flush()
            os._exit(1)


def failure_of(rank: int, cause: str) -> str:
    """What the other ranks are told about the failure of one."""
    return f'rank {rank} has failed: {cause}'


def _send(peer: socket.socket, text: str) -> None:
    with suppress(OSError):  # the other rank has ended
        peer.sendall(f'{text}\n'.encode())


def _read(reader: BinaryIO) -> str:
    """A line; empty if the other rank has ended."""
    with suppress(OSError):
        return reader.readline().decode(errors='replace').strip()
    return ''
