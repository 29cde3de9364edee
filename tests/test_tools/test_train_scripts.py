"""The start scripts pass on their arguments; the Slurm one requeues its job when preempted."""

import os
import re
import socket
import subprocess

import pytest

FLAGS = ['--cfg-options', 'is_dev=True']


def run(script, *arguments, **variables):
    place = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'RUN_ID')
    environment = {name: value for name, value in os.environ.items() if name not in place} | variables
    return subprocess.run(
        ['bash', str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


def executable(path, body):
    path.write_text(f'#!/usr/bin/env bash\n{body}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tools(repository):
    return repository / 'tools'


def test_dist_train_starts_torchrun_on_one_machine(tools):
    done = run(tools / 'dist_train.sh', 'config.py', '8', *FLAGS, PYTHON='echo')
    words = done.stdout.split()
    assert words[:2] == ['-m', 'torch.distributed.run']
    assert {'--nnodes=1', '--nproc_per_node=8', '--master_addr=127.0.0.1', '--max_restarts=0'} <= set(words)
    assert words[-6:] == [str(tools.parent / 'train.py'), 'config.py', '--launcher', 'pytorch', *FLAGS][-6:]


def test_dist_train_on_a_changing_number_of_machines(tools):
    done = run(tools / 'dist_train.sh', 'config.py', '8', NNODES='1:4', MASTER_ADDR='node0', PYTHON='echo')
    assert '--rdzv_backend=c10d --rdzv_endpoint=node0:29500' in done.stdout
    assert '--max_restarts=3' in done.stdout


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        ({'NNODES': '2', 'NODE_RANK': '0'}, 'NNODES=2 needs MASTER_ADDR'),
        ({'NNODES': '1:4'}, 'NNODES=1:4 needs MASTER_ADDR'),
        (
            {'NNODES': '2', 'MASTER_ADDR': 'node0'},
            "needs NODE_RANK, 0 ... 1, its own on each machine, got ''",
        ),
        ({'NNODES': '2', 'MASTER_ADDR': 'node0', 'NODE_RANK': '2'}, "got '2'"),
        ({'NNODES': 'two'}, "NNODES must be a number of machines, or MIN:MAX, got 'two'"),
        ({'PORT': '99999'}, "PORT must be 1 ... 65535, got '99999'"),
    ],
)
def test_dist_train_refuses_machines_that_could_not_meet(tools, variables, message):
    done = run(tools / 'dist_train.sh', 'config.py', '8', PYTHON='echo', **variables)
    assert (done.returncode, done.stdout) == (2, '')
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.fixture
def busy_port():
    with socket.create_server(('127.0.0.1', 0)) as stranger:
        yield str(stranger.getsockname()[1])


def test_dist_train_refuses_a_busy_port_where_it_would_serve(tools, busy_port):
    machines = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=busy_port, PYTHON='echo')
    for variables in ({'PORT': busy_port, 'PYTHON': 'echo'}, machines | {'NODE_RANK': '0'}):
        done = run(tools / 'dist_train.sh', 'config.py', '8', **variables)
        assert (done.returncode, done.stdout) == (2, '')
        assert f'port {busy_port} of this machine is in use' in done.stderr
    assert run(tools / 'dist_train.sh', 'config.py', '8', **machines, NODE_RANK='1').returncode == 0


@pytest.mark.parametrize(('answer', 'code'), [(0, 0), (1, 2)])
def test_dist_train_joins_its_own_elastic_run_and_no_stranger(tools, tmp_path, busy_port, answer, code):
    python = executable(tmp_path / 'python', f'[[ $1 = -c ]] && exit {answer}; echo $@')
    variables = dict(NNODES='1:4', MASTER_ADDR='127.0.0.1', PORT=busy_port, PYTHON=python)
    done = run(tools / 'dist_train.sh', 'config.py', '8', **variables)
    assert (done.returncode, f'port {busy_port} of 127.0.0.1 is in use' in done.stderr) == (code, code == 2)


def test_elastic_runs_are_told_apart_by_config_and_work_dir(tools):
    def run_id(config, *flags, **variables):
        variables |= dict(NNODES='1:4', MASTER_ADDR='node0.invalid', PYTHON='echo')
        done = run(tools / 'dist_train.sh', config, '8', *flags, **variables)
        return re.search('--rdzv_id=([^ ]+)', done.stdout).group(1)

    plain = run_id('configs/a.py', '--work-dir=/shared/run', '--resume')
    assert plain.startswith('a-')
    assert plain == run_id('/home/me/configs/a.py', '--work-dir', '/shared/run/', '--amp')
    others = [
        run_id('configs/b.py', '--work-dir=/shared/run'),
        run_id('configs/a.py', '--work-dir=/shared/other'),
        run_id('configs/a.py', '--cfg-options', 'work_dir=/shared/third'),
        run_id('configs/a.py'),
        run_id('configs/a.py', RUN_ID='mine'),
    ]
    assert len({plain, *others}) == 6
    assert others[-1] == 'mine'


def test_scripts_say_how_they_are_used(tools):
    for name in ('dist_train.sh', 'slurm_train.sh'):
        done = run(tools / name, 'config.py')
        assert (done.returncode, f'bash tools/{name}' in done.stderr) == (2, True)
    assert "got 'eight'" in run(tools / 'dist_train.sh', 'config.py', 'eight').stderr


def test_slurm_train_asks_for_machines_requeue_and_a_signal_in_time(tools, tmp_path):
    done = run(
        tools / 'slurm_train.sh', 'gpu', 'job', 'config.py', str(tmp_path / 'work'), *FLAGS,
        GPUS='16', SBATCH='echo', SRUN_ARGS='--time=1:00:00 --mem=0',
    )  # fmt: skip
    words = done.stdout.split()
    asked = {'--nodes=2', '--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8', '--requeue', '--mem=0'}
    assert asked | {'--signal=B:USR1@120', '--launcher=slurm'} <= set(words)
    assert words[-4:] == ['--resume-from', 'auto', *FLAGS]
    uneven = run(tools / 'slurm_train.sh', 'gpu', 'job', 'config.py', str(tmp_path), GPUS='12', SBATCH='echo')
    assert 'not a multiple' in uneven.stderr


@pytest.fixture
def slurm_job(tools, tmp_path):
    """The batch script among stand-ins: ``srun`` does what is given, and the job is in a state."""

    def job(srun, state='RUNNING None', requeue='echo scontrol $@'):
        programs = dict(
            SRUN=executable(tmp_path / 'srun', srun),
            SQUEUE=executable(tmp_path / 'squeue', f'[[ "$*" = *"-j 7 -t all"* ]] && echo {state}'),
            SCONTROL=executable(tmp_path / 'scontrol', requeue),
        )
        return run(tools / 'slurm_train.sh', '--inside-job', 'train', SLURM_JOB_ID='7', **programs)

    return job


@pytest.mark.parametrize(
    ('srun', 'state', 'code', 'is_requeued'),
    [
        ('exit 75', 'RUNNING None', 0, True),
        ('exit 75', 'COMPLETING None', 75, False),  # scancel
        ('exit 75', 'COMPLETING TimeLimit', 0, True),
        ('kill -USR1 $PPID; sleep 1; exit 138', 'RUNNING None', 0, True),  # Python was still starting
        ('exit 0', 'RUNNING None', 0, False),
        ('exit 1', 'RUNNING None', 1, False),
        ('exit 137', 'RUNNING None', 137, False),
    ],
)
def test_slurm_job_goes_back_into_the_queue_when_preempted(slurm_job, srun, state, code, is_requeued):
    done = slurm_job(srun, state)
    assert (done.returncode, 'scontrol requeue 7' in done.stdout) == (code, is_requeued), done


def test_slurm_job_that_can_not_be_requeued_fails(slurm_job):
    assert slurm_job('exit 75', requeue='exit 1').returncode == 75


def test_process_that_leaves_first_does_not_end_the_others_of_a_slurm_job(slurm_job):
    assert '--kill-on-bad-exit=0 --wait=60 train' in slurm_job('echo $@').stdout


def test_signal_to_the_slurm_job_reaches_the_step(slurm_job):
    step = "trap 'echo saved; exit 75' USR1; kill -USR1 $PPID; for i in $(seq 300); do sleep 0.1; done"
    done = slurm_job(step)
    assert (done.returncode, done.stdout.split()[0], 'requeue 7' in done.stdout) == (0, 'saved', True), done
