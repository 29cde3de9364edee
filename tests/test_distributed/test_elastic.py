"""The launchers of PyTorch themselves: one machine, two "machines" on loopback, restarts and joining."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.killed_runs import final_state, toy_arguments
from helpers.ranks import HELPERS, free_port, run_train, start_ranks
from helpers.tiny_dataset import equal

pytestmark = pytest.mark.slow
SLOW_STEPS = 'train_dataloader.dataset.delay=0.05'
LAUNCH = [sys.executable, '-m', 'torch.distributed.launch']
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run']


class Launch:
    """A launcher in its own process group, its output in a file."""

    def __init__(self, tmp_path, name, command, variables):
        environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')}
        environment |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': HELPERS, 'PYTHON': sys.executable}
        environment |= variables or {}
        self.path = tmp_path / f'{name}.log'
        with open(self.path, 'w') as log:
            self.process = subprocess.Popen(
                command,
                stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self):
        return self.path.read_text()

    def wait(self, seconds=150):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'still running after {seconds} s\n{self.log[-5000:]}') from None

    def wait_for(self, text, seconds=90):
        end = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < end and self.process.poll() is None, self.log[-5000:]
            time.sleep(0.1)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)

    def workers(self):
        listing = subprocess.run(
            ['ps', '--ppid', str(self.process.pid), '-o', 'pid='], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listing.stdout.split()]


@pytest.fixture
def launch(repository, tmp_path):
    launches = []

    def start(name, launcher, arguments, **variables):
        script = [] if 'bash' in launcher else [str(repository / 'train.py')]
        launches.append(Launch(tmp_path, name, [*launcher, *script, *arguments], variables))
        return launches[-1]

    yield start
    for launched in launches:
        if launched.process.poll() is None:
            launched.kill()


@pytest.fixture
def reference(tmp_path):
    """Final state of two processes that nothing happened to."""

    def state(*options):
        arguments = toy_arguments(tmp_path / 'reference', *options, launcher='pytorch')
        start_ranks(run_train, (arguments,), 2, tmp_path / 'ranks').results()
        return final_state(tmp_path / 'reference')

    return state


def test_torch_distributed_launch(tmp_path, launch, reference):
    run = launch(
        'launch',
        [*LAUNCH, '--nproc_per_node=2', f'--master_port={free_port()}'],
        toy_arguments(tmp_path / 'run', launcher='pytorch'),
    )
    assert run.wait() == 0, run.log
    assert equal(final_state(tmp_path / 'run'), reference())


@pytest.mark.parametrize('launcher', ['launch', 'torchrun'])
def test_two_nodes(tmp_path, launch, reference, launcher):
    port = free_port()
    place = [f'--master_port={port}', '--master_addr=127.0.0.1']
    arguments = toy_arguments(tmp_path / 'run', launcher='pytorch')
    nodes = []
    for node in range(2):
        if launcher == 'launch':
            command = [*LAUNCH, '--nnodes=2', '--nproc_per_node=1', f'--node_rank={node}', *place]
        else:
            rendezvous = ['--rdzv_backend=c10d', f'--rdzv_endpoint=127.0.0.1:{port}', '--rdzv_id=1']
            command = [*TORCHRUN, '--nnodes=2', '--nproc_per_node=1', *rendezvous]
        nodes.append(launch(f'node{node}', command, arguments))
    assert [node.wait() for node in nodes] == [0, 0], nodes[0].log + nodes[1].log
    assert equal(final_state(tmp_path / 'run'), reference())


@pytest.mark.parametrize('nnodes', ['1', '1:4'])
def test_script_restarts_after_a_death_and_resumes(tmp_path, launch, reference, repository, nnodes):
    """With one machine the launcher keeps its store, and the addresses of the dead ranks in it."""
    options = (
        SLOW_STEPS,
        'train_dataloader.dataset.num_samples=48',
        'default_hooks.checkpoint.interval_iters=1',
    )
    config, *flags = toy_arguments(tmp_path / 'run', *options, launcher='pytorch')
    run = launch(
        'script',
        ['bash', str(repository / 'tools' / 'dist_train.sh'), config, '2'],
        flags,
        NNODES=nnodes,
        MAX_RESTARTS='3',
        MASTER_ADDR='127.0.0.1',
        PORT=str(free_port()),
    )
    run.wait_for('saving checkpoint iter_3.pth')
    os.kill(run.workers()[1], signal.SIGKILL)
    assert run.wait() == 0, run.log
    assert 'resumed from' in run.log
    assert equal(final_state(tmp_path / 'run'), reference(*options[1:]))


def test_machine_that_joins_and_one_that_leaves(tmp_path, launch, repository):
    variables = dict(NNODES='1:4', MASTER_ADDR='127.0.0.1', PORT=str(free_port()))
    options = (SLOW_STEPS, 'train_dataloader.dataset.num_samples=400', 'train_cfg.max_epochs=1')
    config, *flags = toy_arguments(tmp_path / 'run', *options, launcher='pytorch')
    script = ['bash', str(repository / 'tools' / 'dist_train.sh'), config, '1']
    first = launch('first', script, flags, **variables)
    first.wait_for('saving checkpoint iter_4.pth')
    second = launch('second', script, flags, **variables)
    first.wait_for('trained with 4 samples per step, this run has 8')
    count = first.log.count('saving checkpoint')
    end = time.monotonic() + 60
    while first.log.count('saving checkpoint') < count + 2 and time.monotonic() < end:
        time.sleep(0.1)
    workers = second.workers()
    second.kill()
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    first.wait_for('trained with 8 samples per step, this run has 4')
    assert first.wait() == 0, first.log
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == 'epoch_1.pth'


def test_elastic_run_at_the_port_of_another_is_refused(tmp_path, launch, repository):
    """By another work dir it is another run; the first goes on undisturbed."""
    variables = dict(NNODES='1:2', MASTER_ADDR='127.0.0.1', PORT=str(free_port()))
    script = ['bash', str(repository / 'tools' / 'dist_train.sh')]
    runs = {}
    for name in ('first', 'second'):
        config, *flags = toy_arguments(tmp_path / name, SLOW_STEPS, launcher='pytorch')
        runs[name] = launch(name, [*script, config, '1'], flags, **variables)
        if name == 'first':
            runs[name].wait_for('saving checkpoint')
    assert runs['second'].wait() == 2
    (line,) = runs['second'].log.splitlines()
    assert f'port {variables["PORT"]} of 127.0.0.1 is in use' in line
    assert runs['first'].wait() == 0, runs['first'].log
