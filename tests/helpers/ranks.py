"""Functions run in processes of their own, as the ranks of a distributed run, in milliseconds each.

The processes are forked from a server that has imported the slow packages once. What a function
prints goes to a file of its rank; what it returns is handed back.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from helpers.commands import exit_with

HELPERS = str(Path(__file__).resolve().parent)
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    [
        'torch',
        'thinktwice.apis',
        'thinktwice.core',
        'thinktwice.encoder_decoder_framework',
        'mmdet3d.models',
    ]
)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def pytorch_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return what torchrun sets."""
    return {
        'RANK': str(rank),
        'WORLD_SIZE': str(world_size),
        'LOCAL_RANK': str(rank),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }


def _child(function: Callable, arguments: Sequence, environment: dict[str, str], output: Path) -> None:
    with open(output.with_suffix('.log'), 'w') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(environment)
    sys.path.insert(0, HELPERS)
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)

    def run() -> Any:
        result = function(*arguments)
        torch.save(result, output.with_suffix('.pt'))
        return result

    exit_with(run)


class Ranks:
    """Processes that run one function.

    Args:
        function: Importable by its module's name.
        arguments: Its arguments.
        environments: Environment of each process; its length is their number.
        folder: Where output and results are written.
    """

    def __init__(
        self, function: Callable, arguments: Sequence, environments: Sequence[dict[str, str]], folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = [folder / f'rank_{index}' for index in range(len(environments))]
        self.processes = [
            CONTEXT.Process(target=_child, args=(function, arguments, environment, output))
            for environment, output in zip(environments, self.outputs, strict=True)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 120.0) -> list[int]:
        """Return the exit codes; what still runs after so long is killed and fails the test."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0))
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        assert not late, f'{len(late)} processes still ran after {seconds} s\n{self.logs()}'
        return [process.exitcode for process in self.processes]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f'waited {seconds} s in vain\n{self.logs()}'
            assert any(process.is_alive() for process in self.processes), f'all ended\n{self.logs()}'
            time.sleep(0.01)

    def log(self, index: int) -> str:
        """Return what a process has printed."""
        path = self.outputs[index].with_suffix('.log')
        return path.read_text() if path.exists() else ''

    def logs(self) -> str:
        """Return the end of what each process has printed."""
        return '\n'.join(f'--- {index}: {self.log(index)[-3000:]}' for index in range(len(self.outputs)))

    def results(self, seconds: float = 120.0) -> list[Any]:
        """Return what the functions returned; all have to end well."""
        codes = self.wait(seconds)
        assert not any(codes), f'exit codes {codes}\n{self.logs()}'
        return [torch.load(output.with_suffix('.pt'), weights_only=False) for output in self.outputs]


def start_ranks(function: Callable, arguments: Sequence, world_size: int, folder: Path) -> Ranks:
    """Start ``world_size`` processes as torchrun would."""
    port = free_port()
    environments = [pytorch_environment(rank, world_size, port) for rank in range(world_size)]
    return Ranks(function, arguments, environments if world_size > 1 else [{}], folder)


def run_train(arguments: Sequence[str]) -> int:
    """``python train.py`` with these arguments; returns its exit code."""
    from helpers.commands import command

    return command('train.py')(arguments)
