"""What a resumed run takes from a checkpoint, and what it is told where the two do not fit."""

import json
from typing import Any

import pytest
import torch
from helpers.commands import REPOSITORY
from helpers.killed_runs import toy_arguments
from helpers.ranks import run_train, start_ranks
from mmengine.hooks import Hook


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
