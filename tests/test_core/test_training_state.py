"""What a resumed run takes from a checkpoint, and what it is told where the two do not fit."""

import json
from typing import Any

import pytest
import torch
from helpers.commands import REPOSITORY
from helpers.killed_runs import toy_arguments
from helpers.ranks import run_train, start_ranks
from mmengine.hooks import Hook

from thinktwice.core.optim_wrapper import GuardedOptimWrapper
from thinktwice.core.training_state import load_optimizer


class Named(Hook):
    """A hook with a state of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loaded: dict | None = None

    def state_dict(self) -> dict:
        return {'name': self.name}

    def load_state_dict(self, state: dict) -> None:
        self.loaded = state


def train_with_hooks(arguments: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    """``train.py`` with a ``Named`` hook of each name; returns what each was given."""
    from thinktwice.core.runner import DrivingRunner

    hooks = [Named(name) for name in names]
    register = DrivingRunner.register_default_hooks

    def register_more(runner: Any, defaults: dict | None = None) -> None:
        register(runner, defaults)
        for hook in hooks:
            runner.register_hook(hook)

    DrivingRunner.register_default_hooks = register_more
    assert run_train(arguments) == 0
    return {hook.name: hook.loaded for hook in hooks}


def test_two_hooks_of_a_class_have_a_state_each(tmp_path):
    def train(names, epochs):
        arguments = toy_arguments(tmp_path / 'run', f'train_cfg.max_epochs={epochs}')
        (loaded,) = start_ranks(train_with_hooks, (arguments, names), 1, tmp_path / 'ranks').results()
        return loaded

    train(('a', 'b'), 1)
    assert train(('a', 'b', 'c'), 2) == {'a': {'name': 'a'}, 'b': {'name': 'b'}, 'c': {}}


def test_checkpoint_of_format_1_has_one_state_for_all_hooks_of_a_class(tmp_path):
    folder = tmp_path / 'run'
    arguments = toy_arguments(folder, 'train_cfg.max_epochs=1')
    start_ranks(train_with_hooks, (arguments, ('a',)), 1, tmp_path / 'ranks').results()
    checkpoint = torch.load(folder / 'epoch_1.pth', weights_only=True)
    checkpoint['meta']['format'] = 1
    torch.save(checkpoint, folder / 'epoch_1.pth')
    arguments = toy_arguments(folder, 'train_cfg.max_epochs=2')
    (loaded,) = start_ranks(train_with_hooks, (arguments, ('b', 'c')), 1, tmp_path / 'ranks').results()
    assert loaded == {'b': {'name': 'a'}, 'c': {'name': 'a'}}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder of a toy run of one epoch."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    ranks = start_ranks(
        run_train, (toy_arguments(folder, 'train_cfg.max_epochs=1'),), 1, folder.parent / 'ranks'
    )
    assert ranks.results() == [0]
    return folder


def refusal(folder, *options, flags=()):
    """Last line of a run that ends with exit code 1."""
    config, *others = toy_arguments(folder, *options, resume=False)
    ranks = start_ranks(run_train, ([config, *map(str, flags), *others],), 1, folder.parent / 'ranks')
    assert ranks.wait() == [1], ranks.log(0)
    assert 'Traceback' not in ranks.log(0)
    return ranks.log(0).splitlines()[-1]


def test_another_optimizer_on_resume_is_named_in_a_warning(tmp_path):
    folder = tmp_path / 'run'
    start_ranks(
        run_train, (toy_arguments(folder, 'train_cfg.max_epochs=1'),), 1, tmp_path / 'first'
    ).results()
    options = ('train_cfg.max_epochs=2', 'optim_wrapper.optimizer={"type":"SGD","lr":0.01}')
    ranks = start_ranks(run_train, (toy_arguments(folder, *options),), 1, tmp_path / 'second')
    assert ranks.wait() == [0], ranks.logs()
    assert 'holds the state of AdamW, the config says SGD' in ranks.logs()


def test_options_of_each_parameter_are_written_to_the_log_file_only(tmp_path):
    folder = tmp_path / 'run'
    arguments = toy_arguments(folder, 'train_cfg.max_epochs=1')
    config = tmp_path / 'paramwise.py'
    config.write_text(
        f'_base_ = [{str(REPOSITORY / arguments[0])!r}]\n'
        'optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mult=2.0))\n'
    )
    ranks = start_ranks(run_train, ([str(config), *arguments[1:]],), 1, tmp_path / 'ranks')
    assert ranks.wait() == [0], ranks.logs()
    assert 'paramwise_options' not in ranks.logs()
    assert 'paramwise_options' in next(folder.glob('*/*.log')).read_text()


def test_advice_to_load_what_fits_is_given_only_where_it_can_help(tmp_path, trained):
    file = tmp_path / 'given.pth'
    state = torch.load(trained / 'epoch_1.pth', weights_only=True)
    partial = {name: value for name, value in state['state_dict'].items() if name != 'layers.0.bias'}
    torch.save({**state, 'state_dict': partial}, file)
    assert 'strict_load=False' in refusal(tmp_path / 'run', flags=('--load-from', file))
    assert 'strict_load=False' not in refusal(tmp_path / 'run', flags=('--resume-from', file))
    wider = refusal(tmp_path / 'run', 'model.width=9', flags=('--load-from', file))
    assert 'of another shape' in wider and 'strict_load=False' not in wider
    renamed = {f'model.{name}': value for name, value in partial.items()}
    torch.save({'state_dict': renamed, 'hyper_parameters': {}}, file)
    text = refusal(tmp_path / 'run', 'strict_load=False', flags=('--load-from', file))
    assert 'no weight in common' in text and 'state_dict, hyper_parameters' in text
    assert 'strict_load=False' not in text


def fused(parameter, state=None):
    """A wrapped fused AdamW of one parameter, with a loaded state."""
    wrapper = GuardedOptimWrapper(torch.optim.AdamW([parameter], lr=0.1, fused=True))
    if state is not None:
        load_optimizer(wrapper, {**wrapper.state_dict(), 'state': {0: state}})
    return wrapper.optimizer


def moments(shape):
    return dict(step=torch.tensor(3.0), exp_avg=torch.randn(shape), exp_avg_sq=torch.rand(shape))


def test_fused_update_with_moments_of_another_memory_format_is_that_of_the_definition():
    """As after resuming with ``channels_last`` switched on."""
    weight, gradient, state = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3), moments((4, 3, 3, 3))
    parameter = torch.nn.Parameter(weight.clone(memory_format=torch.channels_last))
    optimizer = fused(parameter, {name: value.clone() for name, value in state.items()})
    parameter.grad = gradient.clone(memory_format=torch.channels_last)
    optimizer.step()
    mean = (0.9 * state['exp_avg'] + 0.1 * gradient) / (1 - 0.9**4)
    square = (0.999 * state['exp_avg_sq'] + 0.001 * gradient**2) / (1 - 0.999**4)
    expected = weight * (1 - 0.1 * 0.01) - 0.1 * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize(
    'change',
    [
        lambda state: state['state'][0].update(exp_avg=torch.zeros(2)),
        lambda state: state['state'][0].update(exp_avg_sq=torch.zeros(1)),
        lambda state: state['state'][0].update(exp_avg=torch.zeros(4, 3).to_sparse()),
        lambda state: state['state'][0].update(exp_avg=None),
        lambda state: state['state'].update({7: moments((4, 3))}),
    ],
)
def test_state_that_is_not_of_the_parameters_is_refused_before_a_fused_update_reads_it(change):
    optimizer = fused(torch.nn.Parameter(torch.randn(4, 3)), moments((4, 3)))
    wrapper = GuardedOptimWrapper(optimizer)
    state = wrapper.state_dict()
    change(state)
    with pytest.raises(ValueError, match='numbered differently|not of its shape'):
        load_optimizer(wrapper, state)


def test_two_parameters_cannot_share_a_state():
    parameters = [torch.nn.Parameter(torch.randn(2)) for _ in range(2)]
    wrapper = GuardedOptimWrapper(torch.optim.AdamW(parameters, lr=0.1))
    state = wrapper.state_dict()
    state['param_groups'][0]['params'] = [1, 1]
    with pytest.raises(ValueError, match='numbered differently'):
        load_optimizer(wrapper, state)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda state: state['state'][0].pop('exp_avg'), "'exp_avg'"),
        (lambda state: state['param_groups'][0]['params'].reverse(), 'of parameter'),
    ],
)
def test_damaged_state_of_an_optimizer_is_refused_with_the_name_of_its_file(tmp_path, trained, change, text):
    file = tmp_path / 'given.pth'
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
    change(checkpoint['optimizer'])
    torch.save(checkpoint, file)
    fused = 'optim_wrapper.optimizer.fused=True'
    line = refusal(tmp_path / 'run', 'train_cfg.max_epochs=2', fused, flags=('--resume-from', file))
    assert str(file) in line and text in line


def best(folder):
    score = json.loads((folder / 'best_open_loop_ade.json').read_text())['score']
    return score, torch.load(folder / 'best_open_loop_ade.pth', weights_only=True)['meta']['iter']


@pytest.mark.parametrize('is_of_version_1', [False, True])
def test_extended_run_keeps_the_best_of_the_evaluation_at_its_former_end(tmp_path, is_of_version_1):
    """The last checkpoint is saved before the evaluation at the end, whose score it cannot hold."""
    folder = tmp_path / 'run'

    def train(*options):
        arguments = toy_arguments(folder, 'train_cfg.val_interval=9', *options)
        ranks = start_ranks(run_train, (arguments,), 1, tmp_path / 'ranks')
        assert ranks.results() == [0], ranks.logs()

    train('train_cfg.max_epochs=1')
    first = best(folder)
    if is_of_version_1:
        file = folder / 'best_open_loop_ade.pth'
        checkpoint = torch.load(file, weights_only=True)
        file.unlink()
        torch.save({**checkpoint, 'hooks': {'AtomicCheckpointHook': {'best_score': first[0]}}}, file)
        file.with_suffix('.json').unlink()
    worse = 'optim_wrapper.optimizer.lr=50.0'
    train('train_cfg.max_epochs=2', worse)
    assert torch.load(folder / 'epoch_2.pth', weights_only=True)['meta']['iter'] == 12
    checkpoint = torch.load(folder / 'best_open_loop_ade.pth', weights_only=True)
    assert checkpoint['meta']['iter'] == first[1] == 6
    if not is_of_version_1:
        assert best(folder) == first
