"""What goes wrong on one process is noticed, answered alike on all of them and explained."""

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killed_runs import TOY_CONFIG, toy_arguments, train_until
from helpers.ranks import Ranks, run_train, start_ranks
from torch import distributed

from thinktwice.apis import train as train_from_python
from thinktwice.checkpoint.file import load_checkpoint, save_checkpoint
from thinktwice.checkpoint.run_folder import find_latest_checkpoint
from thinktwice.core.hooks import SkippedSamplesHook
from thinktwice.distributed.launch import start_distributed, stop_distributed
from thinktwice.errors import DamagedDataError, WriteError

NO_CHECKPOINTS = ('default_hooks.checkpoint.interval_iters=None',)
BAD_SAMPLE = ('train_dataloader.dataset.bad_index=3',)


def train(tmp_path, *options, world_size=2, moment=('die', 'never', 0), rank=None):
    launcher = 'pytorch' if world_size > 1 else 'none'
    arguments = toy_arguments(tmp_path / 'run', *options, launcher=launcher, resume=False)
    ranks = start_ranks(train_until, (arguments, *moment, rank), world_size, tmp_path / 'ranks')
    return ranks, ranks.wait()


def test_step_that_is_not_finite_on_one_process_is_skipped_on_both(tmp_path):
    ranks, codes = train(tmp_path, *BAD_SAMPLE)
    assert codes == [0, 0], ranks.logs()
    dumps = sorted((tmp_path / 'run' / 'nonfinite').glob('*.json'))
    contents = [json.loads(path.read_text()) for path in dumps]
    assert len(dumps) == 6  # three epochs, two processes
    assert sum('toy/0003' in content['samples'] for content in contents) == 3
    assert 'step' in ranks.log(0) and 'was skipped' in ranks.log(0)
    checkpoint = load_checkpoint(tmp_path / 'run' / 'epoch_3.pth')
    assert checkpoint['optimizer']['bad_steps'] == [3, 0]
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
    assert all(torch.isfinite(values).all() for values in checkpoint['statistics_of_processes'])


def test_many_bad_steps_in_a_row_stop_both_processes_with_the_samples_named(tmp_path):
    ranks, codes = train(
        tmp_path, *BAD_SAMPLE, 'train_dataloader.dataset.num_samples=6', 'custom_hooks.0.max_in_a_row=2'
    )
    assert codes == [1, 1], ranks.logs()
    assert '2 steps in a row were not finite' in ranks.log(0)
    assert 'nonfinite' in ranks.log(1)


def test_full_disk_ends_both_processes_and_leaves_the_older_checkpoint(tmp_path):
    ranks, codes = train(tmp_path, moment=('fill_disk', 'write', 2), rank=0)
    assert codes == [1, 1], ranks.logs()
    for rank in (0, 1):
        assert 'cannot write' in ranks.log(rank)
        assert 'No space left on device' in ranks.log(rank)
    folder = tmp_path / 'run'
    latest = find_latest_checkpoint(folder)
    assert latest is not None
    assert (folder / 'last_checkpoint').read_text() == latest.name
    assert [path.name for path in folder.glob('*.pth')] == [latest.name]
    assert not list(folder.glob('.*.tmp'))


def test_disk_that_is_really_full(tmp_path):
    """A file system of 1 MB: the older checkpoint stays whole, and the message says what to do."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip('mounting a small file system needs privileges')
    try:
        saved = disk / 'iter_1.pth'
        save_checkpoint({'state_dict': {'w': torch.ones(100_000)}}, saved)
        with pytest.raises(WriteError, match=r'cannot write .*iter_2.pth.*Free some space'):
            save_checkpoint({'state_dict': {'w': torch.ones(200_000)}}, disk / 'iter_2.pth')
        assert find_latest_checkpoint(disk) == saved
        assert [path.name for path in disk.iterdir()] == ['iter_1.pth']
    finally:
        subprocess.run(['umount', str(disk)], check=True)


@pytest.mark.parametrize(
    ('action', 'moment', 'rank', 'cause', 'notice'),
    [
        ('key_error', 'step', 1, "KeyError: 'no such entry'", 'error: another rank has failed'),
        ('key_error', 'evaluation', 1, "KeyError: 'no such entry'", 'error: another rank has failed'),
        (
            'key_error',
            'write',
            0,
            "KeyError: 'no such entry'",
            "(rank 1): rank 0 has failed: KeyError: 'no such",
        ),
        (
            'key_error',
            'rename',
            0,
            "KeyError: 'no such entry'",
            "(rank 1): rank 0 has failed: KeyError: 'no such",
        ),
        (
            'input_output_error',
            'write',
            0,
            'error: cannot write',
            '(rank 1): rank 0 has failed: cannot write',
        ),
        ('die', 'step', 0, '', 'error (rank 1): another rank has failed'),
        ('die', 'evaluation', 1, '', 'error: another rank has failed'),
    ],
)
def test_failure_of_one_rank_ends_both_although_no_launcher_does(
    tmp_path, action, moment, rank, cause, notice
):
    """The rank that fails says why, the other that it ends because of that."""
    arguments = toy_arguments(tmp_path / 'run', launcher='pytorch', resume=False)
    ranks = start_ranks(train_until, (arguments, action, moment, 2, rank), 2, tmp_path / 'ranks')
    codes = ranks.wait(60)
    assert codes[rank] == (-signal.SIGKILL if action == 'die' else 1), ranks.logs()
    assert codes[1 - rank] == 1, ranks.logs()
    assert cause in ranks.log(rank)
    last = ranks.log(1 - rank).strip().splitlines()[-1]
    assert notice in last
    assert 'Traceback' not in ranks.log(1 - rank)


def train_and_catch(work_dir: Path, seconds: float) -> list[tuple[set[str], list[Any]]]:
    """Threads and signal handlers before training, and after an error in its third step."""
    options = {
        'visualizer.vis_backends': [{'type': 'LocalVisBackend'}]
    }  # TensorBoard's writer keeps its thread
    options['custom_hooks.5.minutes'] = 0.6 * seconds / 60

    def command(unused):
        train_from_python(TOY_CONFIG, work_dir=work_dir, cfg_options=options)

    def state() -> tuple[set[str], list[Any]]:
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        return {thread.name for thread in threading.enumerate()}, [signal.getsignal(n) for n in numbers]

    states = [state()]
    with pytest.raises(KeyError, match='no such entry'):
        train_until((), 'key_error', 'step', 3, command=command)
    states.append(state())
    time.sleep(seconds)
    return [(names, [str(handler) for handler in handlers]) for names, handlers in states]


def test_error_that_the_caller_catches_leaves_no_thread_timer_or_handler_behind(tmp_path):
    """As in a notebook; a watchdog that were still armed would end the process."""
    before, after = Ranks(train_and_catch, (tmp_path / 'run', 3.0), [{}], tmp_path / 'ranks').results()[0]
    assert after == before


def judge_unreadable_samples() -> tuple[int, str]:
    """Rank 1 alone meets unreadable samples, two per step."""
    start_distributed('pytorch')
    hook = SkippedSamplesHook(min_skips=10, interval=2)
    skips = [dict(sample_id=f'sample_{i}', path=f'{i}.png', reason='cut short') for i in range(2)]
    metas = [dict(skipped=skips if distributed.get_rank() == 1 else [])]
    for step in range(100):
        try:
            hook.after_train_iter(None, step, dict(metas=metas))
        except DamagedDataError as error:
            stop_distributed()
            return step, str(error)
    raise AssertionError('nothing stopped the run')


def test_unreadable_samples_of_one_rank_stop_all_at_the_same_step(tmp_path):
    first, second = start_ranks(judge_unreadable_samples, (), 2, tmp_path).results()
    assert first == second
    # ten are reached in step 5 (index 4) and judged after step 6: 12 skips beside 6 samples of each rank
    assert first[0] == 5
    assert '12 of 24 samples of this epoch could not be used' in first[1]
    assert '0.png: cut short' in first[1]


def test_hang_of_one_process_ends_both_with_the_stacks_of_each(tmp_path):
    ranks, codes = train(tmp_path, 'custom_hooks.5.minutes=0.03', moment=('hang', 'step', 2), rank=1)
    assert codes == [1, 1], ranks.logs()
    stacks = [(tmp_path / 'run' / 'watchdog' / f'stacks_rank_{rank}.txt').read_text() for rank in (0, 1)]
    assert 'Timeout' in stacks[0] and 'loops.py' in stacks[0]  # waits for the other inside its step
    assert 'killed_runs.py' in stacks[1] and 'in hang' in stacks[1]
    assert 'no step finished for' in ranks.log(1)


def test_stacks_of_an_earlier_attempt_are_kept(tmp_path):
    path = tmp_path / 'run' / 'watchdog' / 'stacks_rank_0.txt'
    path.parent.mkdir(parents=True)
    path.write_text('stacks of yesterday\n')
    train(tmp_path, *NO_CHECKPOINTS, world_size=1)
    assert path.read_text().startswith('stacks of yesterday\nrun started')


def test_logged_losses_are_means_over_processes(tmp_path):
    """With dropout and the norm off two processes see what one with both batches sees."""
    options = (
        'model.dropout=0', 'model.with_norm=False', 'optim_wrapper.optimizer.lr=0.0',
        'train_cfg.max_epochs=1', 'train_dataloader.batch_size={}', 'default_hooks.logger.interval=100',
    )  # fmt: skip
    logs = {}
    for world_size, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(world_size)
        launcher = 'pytorch' if world_size > 1 else 'none'
        arguments = toy_arguments(folder / 'run', *(o.format(batch) for o in options), launcher=launcher)
        start_ranks(run_train, (arguments,), world_size, folder / 'ranks').results()
        scalars = next((folder / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
        logs[world_size] = [json.loads(line) for line in scalars]
        log = (folder / 'ranks' / 'rank_0.log').read_text()
        assert ('sync_bn is skipped on the CPU' in log) == (world_size == 2)
    one, two = logs[1][0], logs[2][0]
    for name in ('train/loss', 'train/wp_loss', 'train/longitudinal_offset'):
        assert two.get(name, two.get(name[6:])) == pytest.approx(one.get(name, one.get(name[6:])), rel=1e-6)
    alone, together = ({k: v for k, v in log[-1].items() if 'open_loop' in k} for log in logs.values())
    assert alone['val/open_loop/samples'] == together['val/open_loop/samples'] == 10
    assert together == pytest.approx(alone, rel=1e-6)
