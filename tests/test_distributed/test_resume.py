"""A run that is killed and started again ends with the bits of one that never was."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import REPOSITORY
from helpers.killed_runs import final_state, toy_arguments, train_until
from helpers.ranks import HELPERS, run_train, start_ranks
from helpers.tiny_dataset import equal

from thinktwice.checkpoint.run_folder import find_latest_checkpoint

KILLED = -9
PREEMPTED = 75


def run(work_dir, world_size, *moment, options=(), rank=None):
    launcher = 'pytorch' if world_size > 1 else 'none'
    arguments = toy_arguments(work_dir, *options, launcher=launcher)
    ranks = start_ranks(
        train_until,
        (arguments, *(moment or ('die', 'never', 0)), rank),
        world_size,
        work_dir.parent / 'ranks',
    )
    return ranks.wait(), ranks


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory):
    """Final state of a run that nothing happened to, by number of processes and options."""
    states = {}

    def state(world_size, options=()):
        if (world_size, options) not in states:
            folder = tmp_path_factory.mktemp('uninterrupted') / 'run'
            codes, ranks = run(folder, world_size, options=options)
            assert not any(codes), ranks.logs()
            states[world_size, options] = final_state(folder)
        return states[world_size, options]

    return state


def test_killed_again_and_again_ends_with_the_same_bits(tmp_path, uninterrupted):
    folder = tmp_path / 'run'
    moments = [
        ('step', 1),
        ('step', 6),
        ('write', 2),
        ('rename', 1),
        ('evaluation', 2),
        ('rename', 2),
        ('step', 4),
    ]
    for moment, count in moments:
        codes, ranks = run(folder, 1, 'die', moment, count)
        assert codes == [KILLED], (moment, ranks.logs())
    codes, ranks = run(folder, 1)
    assert codes == [0], ranks.logs()
    assert 'resumed from' in ranks.log(0)
    assert equal(final_state(folder), uninterrupted(1))
    assert not list(folder.glob('.*.tmp'))


@pytest.mark.parametrize(
    'options',
    [
        ('optim_wrapper.accumulative_counts=4',),
        ('ema_momentum=0.1',),
        pytest.param(('optim_wrapper.amp_dtype=bfloat16',), marks=pytest.mark.slow),
        pytest.param(('optim_wrapper.amp_dtype=float16',), marks=pytest.mark.slow),
        pytest.param(('train_dataloader.num_workers=2',), marks=pytest.mark.slow),
    ],
    ids=lambda options: options[0].split('.')[-1],
)
def test_resume_is_exact_with(tmp_path, uninterrupted, options):
    folder = tmp_path / 'run'
    for moment, count in [('step', 9), ('step', 4)]:
        codes, ranks = run(folder, 1, 'die', moment, count, options=options)
        assert codes == [KILLED], ranks.logs()
    codes, ranks = run(folder, 1, options=options)
    assert codes == [0], ranks.logs()
    assert equal(final_state(folder), uninterrupted(1, options))
    is_same_as_plain = equal(final_state(folder)['state_dict'], uninterrupted(1)['state_dict'])
    assert is_same_as_plain == ('num_workers' in options[0])  # workers change nothing, the other options do


def test_preempted_run_saves_says_so_and_goes_on(tmp_path, uninterrupted):
    folder = tmp_path / 'run'
    codes, ranks = run(folder, 2, 'stop_politely', 'step', 5, rank=1)
    assert codes == [PREEMPTED, PREEMPTED], ranks.logs()
    assert (folder / 'last_checkpoint').read_text() == 'iter_5.pth'
    codes, ranks = run(folder, 2)
    assert codes == [0, 0], ranks.logs()
    assert equal(final_state(folder), uninterrupted(2))


def test_when_one_process_dies_the_others_end_and_the_run_resumes(tmp_path, uninterrupted):
    folder = tmp_path / 'run'
    for rank, count in [(1, 6), (0, 2)]:
        codes, ranks = run(folder, 2, 'die', 'step', count, rank=rank)  # fails after two minutes
        assert codes[rank] == KILLED, ranks.logs()
        assert codes[1 - rank] == 1, ranks.logs()
    codes, ranks = run(folder, 2)
    assert codes == [0, 0], ranks.logs()
    assert equal(final_state(folder), uninterrupted(2))


def test_each_process_resumes_with_its_own_statistics(tmp_path, uninterrupted):
    options = ('train_dataloader.batch_size=2',)
    folder = tmp_path / 'run'
    codes, ranks = run(folder, 2, 'die', 'step', 8, options=options)
    assert codes == [KILLED, KILLED], ranks.logs()
    codes, ranks = run(folder, 2, options=options)
    assert codes == [0, 0], ranks.logs()
    first, second = final_state(folder)['statistics_of_processes']
    assert not torch.equal(first, second)
    assert equal(final_state(folder), uninterrupted(2, options))


def test_other_number_of_processes_is_said_and_trains_to_the_end(tmp_path):
    folder = tmp_path / 'run'
    run(folder, 2, 'die', 'step', 6)
    codes, ranks = run(folder, 1)
    assert codes == [0], ranks.logs()
    assert 'trained with 8 samples per step, this run has 4' in ranks.log(0)


def last_learning_rate(folder):
    (group,) = final_state(folder)['optimizer']['param_groups']
    return group['lr']


def test_more_processes_train_all_epochs_on_a_schedule_of_their_length(tmp_path, uninterrupted):
    """24 samples in batches of 4: six steps an epoch on one process, three on two."""
    folder = tmp_path / 'run'
    run(folder, 1, 'die', 'step', 15)
    codes, ranks = run(folder, 2)
    assert codes == [0, 0], ranks.logs()
    assert 'those of the config apply' in ranks.log(0)
    assert torch.load(folder / 'epoch_3.pth', weights_only=True)['meta']['epoch'] == 3
    (group,) = uninterrupted(2)['optimizer']['param_groups']
    assert last_learning_rate(folder) == group['lr']


def train_with_clocks_apart(arguments):
    """``train.py``; for the second process a checkpoint is never due."""
    from thinktwice.core.hooks import checkpoint

    if os.environ['RANK'] == '1':
        # of this module only: the start of ranks needs a clock
        checkpoint.time = SimpleNamespace(monotonic=lambda: 0.0)
    return run_train(arguments)


def test_processes_save_by_one_clock(tmp_path):
    options = (
        'default_hooks.checkpoint.interval_iters=None',
        'default_hooks.checkpoint.interval_minutes=1e-9',
    )
    options += ('default_hooks.checkpoint.keep_last_iters=-1',)
    arguments = toy_arguments(tmp_path / 'run', *options, launcher='pytorch')
    ranks = start_ranks(train_with_clocks_apart, (arguments,), 2, tmp_path / 'ranks')
    assert ranks.results(60) == [0, 0]
    names = {path.name for path in (tmp_path / 'run').glob('iter_*.pth')}
    assert names == {f'iter_{step}.pth' for step in (1, 2, 4, 5, 7, 8)}  # three steps an epoch


def test_signal_to_all_processes_of_a_group_lets_readers_finish_the_step(tmp_path):
    """As schedulers send it: the workers that read get it too."""
    arguments = toy_arguments(
        tmp_path / 'run', 'train_dataloader.num_workers=2', 'train_dataloader.dataset.delay=0.05',
        'train_dataloader.persistent_workers=True', 'train_cfg.max_epochs=50',
    )  # fmt: skip
    with open(tmp_path / 'log', 'w') as log:
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / 'train.py'), *arguments],
            stdout=log, stderr=log, start_new_session=True, env={**os.environ, 'PYTHONPATH': HELPERS},
        )  # fmt: skip
    end = time.monotonic() + 90
    while 'saving checkpoint' not in (tmp_path / 'log').read_text() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == PREEMPTED, (tmp_path / 'log').read_text()[-3000:]
    assert find_latest_checkpoint(tmp_path / 'run') is not None


class MakesFolder:
    def __reduce__(self):
        return os.mkdir, ('was_run',)


def test_checkpoint_that_runs_code_is_resumed_only_when_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'run'
    codes, ranks = run(folder, 1, options=('train_cfg.max_epochs=1',))
    assert codes == [0], ranks.logs()
    path = tmp_path / 'foreign.pth'
    torch.save(torch.load(folder / 'epoch_1.pth', weights_only=True) | {'extra': MakesFolder()}, path)
    arguments = [*toy_arguments(tmp_path / 'other', resume=False), '--resume-from', str(path)]
    ranks = start_ranks(run_train, (arguments,), 1, tmp_path / 'ranks')
    assert ranks.wait() == [1]
    assert 'holds more than weights' in ranks.log(0) and '--trust-checkpoint' in ranks.log(0)
    assert not list(tmp_path.rglob('was_run'))
    ranks = start_ranks(run_train, ([*arguments, '--trust-checkpoint'],), 1, tmp_path / 'ranks')
    assert ranks.wait() == [0], ranks.logs()


@pytest.mark.slow
def test_killed_run_over_recorded_drives_ends_with_the_same_bits(tmp_path, repository):
    """The real model and data, read by two worker processes, with augmentation of pixels and geometry."""
    from thinktwice.minitown import Lidar, record

    record(
        str(tmp_path / 'town'),
        2,
        12,
        0,
        (64, 128),
        ['town01_00', 'town02_00'],
        lidar=Lidar(channels=16, columns=200),
    )
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = [{str(repository / "configs" / "thinktwice_minitown.py")!r}]\n'
        "photometric = dict(_delete_=True, type='PhotometricAugmentation')\n"
        'model = dict(data_preprocessor=dict(photometric=photometric))\n'
    )
    states = []
    for name, moments in (('whole', []), ('killed', [('step', 3), ('write', 1), ('step', 2)])):
        folder = tmp_path / name
        arguments = toy_arguments(
            folder, f'data_root={tmp_path / "town"}', 'batch_size=2', 'train_cfg.max_epochs=2',
            'train_cfg.val_interval=2', 'val_dataloader.num_workers=0', 'train_dataloader.num_workers=2',
        )  # fmt: skip
        arguments[0] = str(config)
        for moment, count in moments:
            ranks = start_ranks(train_until, (arguments, 'die', moment, count, None), 1, tmp_path / 'ranks')
            assert ranks.wait(300) == [KILLED], ranks.logs()
        ranks = start_ranks(run_train, (arguments,), 1, tmp_path / 'ranks')
        assert ranks.wait(300) == [0], ranks.logs()
        states.append(final_state(folder, 'epoch_2.pth'))
    assert equal(*states)


def test_averaged_weights_are_the_running_mean_of_those_after_each_update(tmp_path):
    folder, momentum = tmp_path / 'run', 0.1
    options = ('default_hooks.checkpoint.interval_iters=1', 'default_hooks.checkpoint.keep_last_iters=-1')
    options += (f'ema_momentum={momentum}', 'train_cfg.max_epochs=1', 'optim_wrapper.accumulative_counts=2')
    codes, ranks = run(folder, 1, options=options)
    assert codes == [0], ranks.logs()
    average = None
    for name in ('iter_2', 'iter_4', 'epoch_1'):  # six batches, three updates; none is saved in between
        checkpoint = torch.load(folder / f'{name}.pth', weights_only=True)
        trained = checkpoint['ema_state_dict']['module.layers.0.weight']  # what is being trained lies beside
        average = trained if average is None else average + momentum * (trained - average)
        torch.testing.assert_close(checkpoint['state_dict']['layers.0.weight'], average)
    assert not torch.equal(average, trained)
    assert not (folder / 'iter_1.pth').exists()
