"""The start scripts hand on what they are told; the Slurm one goes back into the queue when preempted."""

import os
import subprocess

import pytest

FLAGS = ['--cfg-options', 'is_dev=True']


def run(script, *arguments, **variables):
    environment = {**os.environ, **variables}
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


@pytest.mark.parametrize(
    ('srun', 'code', 'is_requeued'),
    [('exit 75', 0, True), ('exit 0', 0, False), ('exit 1', 1, False)],
)
def test_slurm_job_goes_back_into_the_queue_when_preempted(tools, tmp_path, srun, code, is_requeued):
    programs = dict(
        SRUN=executable(tmp_path / 'srun', srun), SCONTROL=executable(tmp_path / 'scontrol', 'echo $@')
    )
    done = run(tools / 'slurm_train.sh', '--inside-job', 'train', SLURM_JOB_ID='7', **programs)
    assert (done.returncode, 'requeue 7' in done.stdout) == (code, is_requeued), done


def test_signal_to_the_slurm_job_reaches_the_step(tools, tmp_path):
    step = "trap 'echo saved; exit 75' USR1; kill -USR1 $PPID; for i in $(seq 300); do sleep 0.1; done"
    programs = dict(
        SRUN=executable(tmp_path / 'srun', step), SCONTROL=executable(tmp_path / 'scontrol', 'echo $@')
    )
    done = run(tools / 'slurm_train.sh', '--inside-job', 'train', SLURM_JOB_ID='7', **programs)
    assert (done.returncode, done.stdout.split()[0], 'requeue 7' in done.stdout) == (0, 'saved', True), done
