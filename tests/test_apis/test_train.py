"""train.py as users start it: one process, two processes, resumed, and with mistakes."""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from helpers.commands import PYTHONPATH, REPOSITORY, command, load_command, run_python
from helpers.ranks import run_train as run_as_rank
from helpers.ranks import start_ranks
from helpers.tiny_dataset import write_dataset

from thinktwice.apis import init_model, train
from thinktwice.apis import test as evaluate
from thinktwice.checkpoint.run_folder import write_pointer
from thinktwice.command_line import run_command
from thinktwice.core.runner import DrivingRunner
from thinktwice.errors import ConfigError
from thinktwice.registry import DATASETS, MMENGINE_DATASETS

TOY_CONFIG = 'tests/helpers/toy_config.py'
EXACT = ('--deterministic',)

run_train = command('train.py')
parse_arguments = load_command('train.py')['parse_arguments']


def scalars(folder: Path) -> list[dict]:
    """Logged lines of a run."""
    return [
        json.loads(line) for line in next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def assert_same_weights(first: Path, second: Path) -> None:
    expected, actual = weights(first), weights(second)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory) -> tuple[Path, str]:
    """A finished run of 18 steps in 3 epochs, asked to resume where there is nothing; its output."""
    folder = tmp_path_factory.mktemp('whole')
    result = run_python(
        'train.py', TOY_CONFIG, f'--work-dir={folder}', *EXACT, '--seed=3', '--resume-from', 'auto'
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout + result.stderr


def test_run_leaves_logs_checkpoints_and_what_is_needed_to_repeat_it(whole_run):
    folder, output = whole_run
    assert (folder / 'last_checkpoint').read_text() == 'epoch_3.pth'
    names = {path.name for path in folder.glob('*.pth')}
    assert names >= {'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'best_open_loop_ade.pth'}
    assert 'seed=3' in (folder / 'toy_config.py').read_text()
    environment = json.loads(next(folder.glob('*/environment.json')).read_text())
    assert environment['environment']['torch'] == version('torch')
    assert next(folder.glob('*/vis_data/events.out.tfevents*'))
    lines = scalars(folder)
    training = [line for line in lines if 'train/loss' in line]
    assert [line['iter'] for line in training] == [6, 12, 18]
    expected = {
        'train/wp_loss',
        'train/longitudinal_offset',
        'train/grad_norm',
        'train/data_time',
        'train/lr',
    }
    assert expected < training[0].keys()
    assert sum('val/open_loop/ade' in line for line in lines) == 3
    assert 'eta:' in output
    assert 'training starts from the beginning' in output


def test_resume_passes_over_a_torn_checkpoint_and_ends_the_same(whole_run, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(whole_run[0], folder)
    torn = folder / 'epoch_3.pth'
    torn.write_bytes(torn.read_bytes()[:1000])
    result = run_python('train.py', TOY_CONFIG, f'--work-dir={folder}', *EXACT, '--seed=3', '--resume')
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'epoch_3.pth is skipped' in output
    assert 'epoch_2.pth: epoch 2, iteration 12' in output
    assert_same_weights(whole_run[0] / 'epoch_3.pth', torn)


def test_resume_in_the_middle_of_an_epoch_is_exact(whole_run, tmp_path):
    """10 steps of 18, then a stop, then the rest: bit for bit the run that was never stopped."""
    command = ('train.py', TOY_CONFIG, f'--work-dir={tmp_path}', *EXACT, '--seed=3')
    assert run_python(*command, '--cfg-options', 'train_cfg.max_iters=10').returncode == 0
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_10.pth'
    result = run_python(*command, '--resume')
    assert result.returncode == 0, result.stderr
    assert 'iter_10.pth: epoch 1, iteration 10' in result.stdout + result.stderr
    assert_same_weights(whole_run[0] / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


def test_resume_where_there_is_nothing_starts_from_the_weights_that_are_given(whole_run, tmp_path):
    start = whole_run[0] / 'epoch_3.pth'
    command = ('train.py', TOY_CONFIG, f'--work-dir={tmp_path}', '--load-from', str(start), '--resume')
    options = ('--cfg-options', 'optim_wrapper.optimizer.lr=0.0', 'train_cfg.max_epochs=1')
    result = run_python(*command, *options)
    assert result.returncode == 0, result.stderr
    assert f'loaded weights from {start}' in result.stdout + result.stderr
    before, after = weights(start), weights(tmp_path / 'epoch_1.pth')
    assert torch.equal(before['layers.0.weight'], after['layers.0.weight'])
    again = run_python(*command, *options)
    assert 'resumed from' in again.stdout + again.stderr


def test_two_processes_by_the_classic_launcher(tmp_path):
    result = run_python(
        *('-m', 'torch.distributed.launch', '--nproc_per_node=2', f'--master_port={free_port()}', 'train.py'),
        *(TOY_CONFIG, f'--work-dir={tmp_path}', '--launcher=pytorch'),
        *('--cfg-options', 'train_cfg.max_epochs=2'),
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'sync_bn is skipped on the CPU' in output
    evaluations = [line for line in scalars(tmp_path) if 'val/open_loop/samples' in line]
    # 10 samples on 2 processes in batches of 4: each once
    assert [line['val/open_loop/samples'] for line in evaluations] == [10, 10]
    assert torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['meta']['iter'] == 6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--resume', 'missing.pth'], '--resume: checkpoint missing.pth does not exist'),
        (['--load-from', 'missing.pth'], '--load-from: checkpoint missing.pth does not exist'),
        (['--cfg-options', 'optim_wrapper.optimizer.lrr=1'], 'Did you mean lr'),
        (
            ['--cfg-options', 'train_dataloader.dataset.type=Nowhere'],
            "train_dataloader.dataset.type: no part is called 'Nowhere'",
        ),
        (['--cfg-options', 'optim_wrapper.optimizer.type=Adamw'], 'Did you mean AdamW'),
        (['--cfg-options', 'train_dataloader.batch_size=0'], 'batch_size must be a whole number >= 1, got 0'),
        (['--cfg-options', 'train_cfg.max_epochs=0'], 'max_epochs must be a whole number >= 1, got 0'),
        (['--launcher', 'pytorch'], 'needs the environment variable RANK'),
    ],
)
def test_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    config = str(REPOSITORY / TOY_CONFIG)
    assert run_train([config, f'--work-dir={tmp_path}', *arguments]) == 1
    assert_one_error(capsys, message)


def assert_one_error(capsys, message: str) -> None:
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            '',
            'has no model and no train_dataloader and no train_cfg and no optim_wrapper, which',
        ),
        ('model = dict(typ=1)\ntrain_cfg = dict()\noptim_wrapper = dict()', 'has no train_dataloader, which'),
    ],
)
def test_config_that_can_not_be_trained_says_what_is_missing(text, message, tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text(text)
    assert run_train([str(config)]) == 1
    assert_one_error(capsys, message)


def test_option_without_a_value_says_what_is_expected(capsys):
    for option in ('is_dev', '=3', 'a=[1,(2]'):
        with pytest.raises(SystemExit, match='2'):
            parse_arguments(['c.py', '--cfg-options', option])
        assert option in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        parse_arguments(['c.py', '--cfg-options', 'is_dev'])
    assert 'expected KEY=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('work_dir', 'message'),
    [
        ('a_file', 'a_file cannot be made: a file is in its place'),
        ('a_file/run', 'a_file/run cannot be made'),
    ],
)
def test_work_dir_that_can_not_be_made_is_named(work_dir, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    (tmp_path / 'a_file').write_text('')
    assert run_train([str(REPOSITORY / TOY_CONFIG), f'--work-dir={tmp_path / work_dir}']) == 1
    assert_one_error(capsys, message)


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        ("custom_hooks = [dict(type='WatchdogHook', minutes=1e30)]", 'custom_hooks.0.minutes must be'),
        ("log_processor = dict(window_size='x')", 'log_processor.window_size must be a whole number >= 1'),
        ('optim_wrapper = dict(clip_grad=dict(max_nrom=1))', 'failed before the first step was done: '),
        (
            "param_scheduler = [dict(type='LinearLR', end=-1)]",
            'param_scheduler: LinearLR cannot be built: end ',
        ),
        ("train_cfg = dict(type='EpochBasedTrainLoop')", 'use ResumableTrainLoop'),
    ],
)
def test_failure_before_the_first_step_is_done_is_one_line(part, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    config = tmp_path / 'own.py'
    config.write_text(f'_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\n{part}\n')
    assert run_train([str(config), f'--work-dir={tmp_path}']) == 1
    assert_one_error(capsys, message)


OWN_HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class OwnHook(Hook):
    def {stage}(self, runner, **unused):
        {statement}
"""


@pytest.mark.parametrize('statement', ['return 1 / 0', 'return len(3)'])
@pytest.mark.parametrize('stage', ['before_train', 'after_train_iter'])
def test_failure_of_a_users_own_code_keeps_its_traceback(stage, statement, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'own_hook.py').write_text(OWN_HOOK.format(stage=stage, statement=statement))
    monkeypatch.delitem(sys.modules, 'own_hook', raising=False)
    config = tmp_path / 'own.py'
    config.write_text(
        f'_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\n'
        "custom_imports = dict(_delete_=True, imports=['toy_parts', 'own_hook'])\n"
        "custom_hooks = [dict(type='OwnHook')]\n"
    )
    with pytest.raises(TypeError if 'len' in statement else ZeroDivisionError):
        run_train([str(config), f'--work-dir={tmp_path}'])


DRIVES = """
_base_ = [{toy!r}]
data_modes = None
default_hooks = dict(logger=dict(interval=1))
train_dataloader = dict(
    dataset=dict(_delete_=True, type='CarlaDataset', data_root={root!r}, pipeline=[], split={split!r})
)
"""


@pytest.mark.parametrize(
    ('damage', 'split', 'message'),
    [
        ('file', None, 'is a file: name the folder'),
        ('metadata', None, 'dataset_metadata'),
        (
            'none',
            {'towns': ['town09'], 'indices': ['00']},
            'train_dataloader.dataset: CarlaDataset: the split',
        ),
        ('none', {'towns': ['town01'], 'indices': [5]}, 'got [5]; on the command line'),
    ],
)
def test_what_is_wrong_with_the_drives_is_one_line(damage, split, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    root = write_dataset(tmp_path / 'drives', {'town01_00/routes_a': 3})
    if damage == 'file':
        root = root / 'calibration.json'
    if damage == 'metadata':
        for file in root.glob('dataset_metadata*'):
            file.write_text('[')
    config = tmp_path / 'drives.py'
    config.write_text(DRIVES.format(toy=str(REPOSITORY / TOY_CONFIG), root=str(root), split=split))
    assert run_train([str(config), f'--work-dir={tmp_path}']) == 1
    assert_one_error(capsys, message)


@pytest.mark.parametrize('saved', [False, True])
def test_interrupted_training_says_how_to_go_on(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    monkeypatch.setattr('thinktwice.core.runner.DrivingRunner.train', lambda runner: press_ctrl_c())
    if saved:
        write_pointer(tmp_path, 'epoch_2.pth')
    expected = (
        f'--resume continues from {tmp_path}/epoch_2.pth' if saved else f'no checkpoint in {tmp_path} yet'
    )
    assert run_train([str(REPOSITORY / TOY_CONFIG), f'--work-dir={tmp_path}']) == 130
    assert f'interrupted: {expected}' in capsys.readouterr().err.splitlines()


def press_ctrl_c() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # the signal arrives meanwhile
    except BaseException as error:
        raise SyntaxError('failed to format the config') from error  # as mmengine does


def test_interrupted_imports_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / 'slow_to_import.py').write_text('raise KeyboardInterrupt')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_command(lambda argv: importlib.import_module('slow_to_import')) == 130
    assert capsys.readouterr().err == 'interrupted\n'


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_one_line(tmp_path):
    config = tmp_path / 'long.py'
    config.write_text(
        f'_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\ntrain_cfg = dict(max_epochs=100000)\n'
        # Python swallows an exception that comes while a process forks: fork once
        'train_dataloader = dict(num_workers=1, persistent_workers=True)\n'
    )
    process = subprocess.Popen(
        [sys.executable, 'train.py', str(config), f'--work-dir={tmp_path}'],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': PYTHONPATH},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / 'last_checkpoint').exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert 'Traceback' not in errors
    assert f'interrupted: --resume continues from {tmp_path}/epoch_' in errors


def test_paper_config_without_data_says_where_data_belongs(tmp_path):
    missing = tmp_path / 'nothing'
    result = run_python(
        *(
            'train.py',
            'configs/thinktwice.py',
            f'--work-dir={tmp_path}',
            '--cfg-options',
            f'data_root={missing}',
        )
    )
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith('error')]
    assert len(errors) == 1
    assert str(missing) in errors[0]
    assert 'tools/record_minitown.py' in errors[0]


def test_datasets_are_built_once_and_before_the_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    built = []
    monkeypatch.setattr(DATASETS, 'build', counted(DATASETS.build, built))
    monkeypatch.setattr(MMENGINE_DATASETS, 'build', counted(MMENGINE_DATASETS.build, built))
    monkeypatch.setattr(DrivingRunner, 'wrap_model', counted(DrivingRunner.wrap_model, built, 'model'))
    monkeypatch.setattr(DrivingRunner, 'train', lambda runner: None)
    train(str(REPOSITORY / TOY_CONFIG), work_dir=tmp_path)
    assert built == ['ToyPlans', 'ToyPlans', 'model']


def counted(function, calls: list, name: str | None = None):
    def call(first, *arguments, **options):
        calls.append(name or first['type'])
        return function(first, *arguments, **options)

    return call


@pytest.mark.parametrize(
    ('options', 'rate'),
    [
        ({}, 0.01 * 4 / 128),
        ({'optim_wrapper.accumulative_counts': 8}, 0.01 * 32 / 128),
        ({'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 2}, 0.01 * 4 / 128),
    ],
)
def test_learning_rate_is_scaled_by_the_samples_of_an_optimizer_step(options, rate, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    seen = []
    monkeypatch.setattr(
        DrivingRunner, 'train', lambda runner: seen.append(runner.optim_wrapper.param_groups[0]['lr'])
    )
    monkeypatch.setattr(DrivingRunner, 'build_all', build_and_scale)
    config = tmp_path / 'scaled.py'
    config.write_text(
        f'_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\nauto_scale_lr = dict(base_batch_size=128)\n'
    )
    train(config, work_dir=tmp_path, cfg_options=options, autoscale_lr=True)
    assert seen == [pytest.approx(rate)]


def build_and_scale(runner: DrivingRunner) -> None:
    """The part of mmengine's ``train`` that decides the learning rate."""
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)


LAYERS = """
from thinktwice.registry import MODELS
from toy_parts import ToyPlanner
from torch import nn


@MODELS.register_module()
class PlannerWithUnusedLayer(ToyPlanner):
    def __init__(self, **options):
        super().__init__(**options)
        self.layer = nn.Linear(2, 2)


@MODELS.register_module()
class PlannerWithRareLayer(PlannerWithUnusedLayer):
    def forward(self, *arguments, **options):
        outputs = super().forward(*arguments, **options)
        if isinstance(outputs, dict) and not self.training:
            outputs['loss_layer'] = self.layer.weight.sum()
        return outputs
"""


@pytest.mark.parametrize(
    ('planner', 'options', 'code'),
    [
        ('PlannerWithUnusedLayer', (), 0),
        ('PlannerWithRareLayer', (), 1),
        ('PlannerWithRareLayer', ('--cfg-options', 'model_wrapper_cfg.find_unused_parameters=True'), 0),
    ],
)
def test_parameters_without_gradient_on_two_ranks(planner, options, code, tmp_path):
    (tmp_path / 'more_layers.py').write_text(LAYERS)
    config = tmp_path / 'more.py'
    config.write_text(
        f'import sys\n\nsys.path.insert(0, {str(tmp_path)!r})\n_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\n'
        "custom_imports = dict(imports=['toy_parts', 'more_layers'], allow_failed_imports=False)\n"
        f'model = dict(type={planner!r})\ntrain_cfg = dict(max_epochs=1)\n'
    )
    arguments = [str(config), f'--work-dir={tmp_path / "run"}', '--launcher', 'pytorch', *options]
    ranks = start_ranks(run_as_rank, (arguments,), 2, tmp_path / 'ranks')
    assert ranks.wait() == [code] * 2, ranks.logs()
    assert ('error: some parameters get no gradient' in ranks.log(0)) == (code == 1)
    frozen = '2 parameters that no loss uses are frozen (layer.weight, layer.bias)'
    assert (frozen in ranks.log(0)) == (planner == 'PlannerWithUnusedLayer')
    assert 'Traceback' not in ranks.logs()


def test_another_model_wrapper_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    options = {'model_wrapper_cfg': {'type': 'MMFullyShardedDataParallel'}}
    with pytest.raises(ConfigError, match="model_wrapper_cfg.type='MMFullyShardedDataParallel'"):
        train(str(REPOSITORY / TOY_CONFIG), work_dir=tmp_path, cfg_options=options)


def test_config_without_default_hooks_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    config = tmp_path / 'bare.py'
    toy = f'_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\n'
    config.write_text(f'{toy}data_modes = None\ndefault_hooks = dict(_delete_=True)\n')
    torch.save(init_model(config, device='cpu').state_dict(), tmp_path / 'weights.pth')
    metrics = evaluate(config, tmp_path / 'weights.pth', work_dir=tmp_path, out=tmp_path / 'new' / 'm.json')
    assert json.loads((tmp_path / 'new' / 'm.json').read_text()) == metrics
    assert metrics['open_loop/samples'] == 10


def test_a_config_in_the_work_dir_stays_as_its_user_wrote_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    config = tmp_path / 'mine.py'
    config.write_text(f'# my notes\n_base_ = [{str(REPOSITORY / TOY_CONFIG)!r}]\n')
    before = config.read_text()
    checkpoint = train(config, work_dir=tmp_path, cfg_options={'train_cfg.max_epochs': 1})
    evaluate(config, checkpoint, work_dir=tmp_path)
    assert config.read_text() == before
    assert 'max_epochs=1' in min(tmp_path.glob('*/vis_data/config.py')).read_text()


def test_an_evaluation_leaves_the_config_of_the_training_in_the_work_dir(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / 'tests' / 'helpers'))
    config = REPOSITORY / TOY_CONFIG
    checkpoint = train(config, work_dir=tmp_path, cfg_options={'train_cfg.max_epochs': 1})
    written = (tmp_path / config.name).read_text()
    assert 'max_epochs=1' in written
    evaluate(config, checkpoint, work_dir=tmp_path)
    assert (tmp_path / config.name).read_text() == written


@pytest.mark.parametrize('flag', ['--local-rank=1', '--local_rank=1'])
def test_local_rank_comes_before_the_config_or_after(monkeypatch, flag):
    for order in ([flag, 'c.py'], ['c.py', flag]):
        monkeypatch.delenv('LOCAL_RANK', raising=False)
        assert parse_arguments(order).config == 'c.py'
        assert os.environ['LOCAL_RANK'] == '1'
