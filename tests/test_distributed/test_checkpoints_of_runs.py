"""What a run does with the checkpoints that it finds, writes and is given."""

import pytest
import torch
from helpers.killed_runs import final_state, toy_arguments, train_until
from helpers.ranks import run_train, start_ranks
from helpers.tiny_dataset import equal

AVERAGE = 'ema_momentum=0.1'
ONE_EPOCH = 'train_cfg.max_epochs=1'
NO_LEARNING = 'optim_wrapper.optimizer.lr=0.0'


def train(folder, *options, flags=(), resume=False, world_size=1, until=None):
    """Train the toy config in ``folder``; returns exit codes and the output of rank 0."""
    launcher = 'pytorch' if world_size > 1 else 'none'
    config, *others = toy_arguments(folder, *options, launcher=launcher, resume=resume)
    arguments = [config, *map(str, flags), *others]
    call = (train_until, (arguments, 'die', *until)) if until else (run_train, (arguments,))
    ranks = start_ranks(*call, world_size, folder.parent / f'ranks_of_{folder.name}')
    return set(ranks.wait()), ranks.log(0)


def seeds(folder):
    return {path.name: torch.load(path, weights_only=True)['meta']['seed'] for path in folder.glob('*.pth')}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder of a finished run with seed 0."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    codes, log = train(folder)
    assert codes == {0}, log
    return folder


def test_new_run_in_a_used_folder_moves_the_old_one_aside_and_a_resumed_run_moves_nothing(tmp_path):
    folder = tmp_path / 'run'
    train(folder)
    old = seeds(folder)
    assert {'epoch_3.pth', 'best_open_loop_ade.pth'} < old.keys()
    options = ('randomness.seed=7', 'default_hooks.checkpoint.keep_last=1')
    codes, log = train(folder, *options, world_size=2, until=('step', 5))
    (previous,) = folder.glob('previous_*')
    assert seeds(previous) == old
    own = ('best_open_loop_ade.pth', 'epoch_1.pth', 'iter_2.pth', 'iter_4.pth')
    assert seeds(folder) == dict.fromkeys(own, 7)
    assert f'moved to {previous}' in log
    assert f'--resume-from {previous / "epoch_3.pth"}' in log
    codes, log = train(folder, *options, world_size=2, resume=True)
    assert codes == {0}, log
    assert 'resumed from' in log and 'were moved' not in log
    assert list(folder.glob('previous_*')) == [previous]
    assert set(seeds(folder).values()) == {7}


@pytest.mark.parametrize('change', ['none', 'prefix', 'partial'])
def test_average_starts_from_the_weights_of_any_file_that_loads_without_it(tmp_path, trained, change):
    weights = dict(torch.load(trained / 'epoch_3.pth', weights_only=True)['state_dict'])
    if change == 'prefix':
        weights = {f'module.{name}': value for name, value in weights.items()}
    if change == 'partial':
        del weights['layers.0.bias']
    torch.save(weights, tmp_path / 'given.pth')
    codes, log = train(
        *(tmp_path / 'run', AVERAGE, ONE_EPOCH, NO_LEARNING, 'strict_load=False'),
        flags=('--load-from', tmp_path / 'given.pth'),
    )
    assert codes == {0}, log
    saved = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=True)
    given = torch.load(tmp_path / 'given.pth', weights_only=True)
    for name, value in given.items():
        name = name.removeprefix('module.')
        if name.startswith('layers.0.'):  # the statistics of a norm move without learning
            assert torch.allclose(saved['state_dict'][name], value, rtol=0, atol=1e-6)
            assert torch.equal(saved['ema_state_dict'][f'module.{name}'], value)


def test_run_that_drops_its_average_goes_on_from_the_weights_in_training(tmp_path, trained):
    """The average has no part in training, so the end is that of a run that never had one."""
    folder = tmp_path / 'run'
    train(folder, AVERAGE, until=('step', 15))
    codes, log = train(folder, resume=True)
    assert codes == {0}, log
    assert 'resumes from the weights in training' in log
    assert equal(final_state(folder)['state_dict'], final_state(trained)['state_dict'])


def test_run_whose_checkpoints_lie_elsewhere_is_found_again(tmp_path, trained):
    elsewhere = f'default_hooks.checkpoint.out_dir={tmp_path / "elsewhere"}'
    train(tmp_path / 'run', elsewhere, until=('step', 15))
    codes, log = train(tmp_path / 'run', elsewhere, resume=True)
    assert codes == {0}, log
    assert f'resumed from {tmp_path / "elsewhere" / "iter_14.pth"}' in log
    assert equal(final_state(tmp_path / 'elsewhere'), final_state(trained))
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize(
    ('part', 'value', 'message'),
    [
        ('meta', 7, 'its meta is of type int'),
        ('optimizer', 3, 'its optimizer is of type int'),
        ('state_dict', {1: torch.ones(1)}, 'entry 1 of its state_dict'),
        ('ema_state_dict', {'module.w': torch.ones(1)}, 'does not fit the model'),
        ('optimizer', {'state': {}}, 'do not fit those of the config'),
    ],
)
def test_malformed_checkpoint_is_one_line(tmp_path, trained, part, value, message):
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
    torch.save({**checkpoint, part: value}, tmp_path / 'odd.pth')
    codes, log = train(tmp_path / 'run', flags=('--resume-from', tmp_path / 'odd.pth'))
    assert codes == {1}
    assert message in log.splitlines()[-1]
    assert 'Traceback' not in log


def formats_of_the_config(arguments):
    """Train, and count how often yapf formats the config, which takes a second for a large one."""
    from yapf.yapflib import yapf_api

    count = [0]
    parse = yapf_api.pytree_utils.ParseCodeToTree

    def counted(code):
        count[0] += 1
        return parse(code)

    yapf_api.pytree_utils.ParseCodeToTree = counted
    run_train(arguments)
    return {'formats': count[0]}


def test_config_is_formatted_once_for_log_files_and_checkpoints(tmp_path):
    arguments = toy_arguments(tmp_path / 'run', ONE_EPOCH, resume=False)
    ranks = start_ranks(formats_of_the_config, (arguments,), 1, tmp_path / 'ranks')
    assert ranks.results() == [{'formats': 1}]
    assert {'iter_2.pth', 'iter_4.pth', 'epoch_1.pth'} <= {
        path.name for path in (tmp_path / 'run').glob('*.pth')
    }
