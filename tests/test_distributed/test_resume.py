"""A run that is killed and started again ends with the bits of one that never was."""

import pytest
import torch
from helpers.killed_runs import final_state, toy_arguments, train_until
from helpers.ranks import start_ranks
from helpers.tiny_dataset import equal

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
    assert 'trained with 8 samples a step, this run has 4' in ranks.log(0)
