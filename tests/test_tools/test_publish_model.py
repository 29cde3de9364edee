"""``tools/publish_model.py``: what is published is what was trained, and damage is noticed."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.commands import REPOSITORY, command, run_python
from safetensors import safe_open
from safetensors.torch import load_file

from thinktwice.apis import init_model
from thinktwice.apis import train as train_model
from thinktwice.checkpoint.file import load_checkpoint
from thinktwice.errors import CheckpointError

publish_model = command('tools/publish_model.py')
TOY_CONFIG = REPOSITORY / 'tests' / 'helpers' / 'toy_config.py'


@pytest.fixture(scope='module', autouse=True)
def toy_parts_are_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY_CONFIG.parent)
        yield


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """Work dir of a training of one epoch."""
    folder = tmp_path_factory.mktemp('run')
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.num_samples': 8}
    train_model(str(TOY_CONFIG), work_dir=folder, cfg_options=options)
    return folder


@pytest.fixture(scope='module')
def published(run, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp('zoo') / 'new folder' / 'toy'
    assert publish_model([str(run / 'best_open_loop_ade.pth'), str(target)]) == 0
    (file,) = target.parent.glob('*.safetensors')
    return file


def test_published_model_predicts_bit_equal_to_the_checkpoint(run, published):
    expected = init_model(TOY_CONFIG, run / 'best_open_loop_ade.pth', 'cpu')
    # with the config that was published
    model = init_model(published.with_suffix('.py'), published, 'cpu')
    speeds = {'speed': torch.linspace(0, 12, 7)}
    with torch.no_grad():
        plans = [item(speeds, mode='tensor') for item in (expected, model)]
    assert plans[0].abs().sum() > 0
    assert torch.equal(*plans)
    untrained = init_model(TOY_CONFIG, None, 'cpu')
    with torch.no_grad():
        assert not torch.equal(untrained(speeds, mode='tensor'), plans[0])


def test_file_holds_weights_alone_and_tells_where_they_come_from(run, published):
    checkpoint = torch.load(run / 'best_open_loop_ade.pth', weights_only=True)
    tensors = load_file(published)
    assert tensors.keys() == checkpoint['state_dict'].keys()
    assert all(torch.equal(tensors[name], value) for name, value in checkpoint['state_dict'].items())
    with safe_open(published, 'pt') as file:
        metadata = file.metadata()
    assert metadata['config'] == checkpoint['meta']['cfg'] == published.with_suffix('.py').read_text()
    training = json.loads(metadata['training'])
    assert (training['epochs'], training['steps'], training['seed']) == (1, 2, checkpoint['meta']['seed'])
    assert metadata['torch'] == torch.__version__
    score = json.loads((run / 'best_open_loop_ade.json').read_text())['score']
    assert json.loads(metadata['metrics']) == {'open_loop/ade': score}


def test_name_and_card_have_the_checksum(published):
    checksum = hashlib.sha256(published.read_bytes()).hexdigest()
    assert published.name == f'toy-{checksum[:8]}.safetensors'
    card = published.with_suffix('.md').read_text()
    assert checksum in card
    score = json.loads(safe_open(published, 'pt').metadata()['metrics'])['open_loop/ade']
    assert re.search(rf'\| open_loop/ade \| {score:.4g} +\|', card)


def test_publishing_again_gives_the_same_files(run, published):
    before = {path: path.read_bytes() for path in published.parent.iterdir()}
    assert len(before) == 3
    for _ in range(4):  # the order of metadata is drawn anew by the library
        assert publish_model([str(run / 'best_open_loop_ade.pth'), str(published.parent / 'toy')]) == 0
    assert {path: path.read_bytes() for path in published.parent.iterdir()} == before


def test_flipped_byte_is_refused(published, tmp_path):
    content = published.read_bytes()
    for position in (9, len(content) // 2, len(content) - 1):
        copy = tmp_path / published.name
        copy.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match='is damaged') as refusal:
            init_model(TOY_CONFIG, copy, 'cpu')
        assert published.stem[-8:] in str(refusal.value) and str(copy) in str(refusal.value)
    copy.write_bytes(content)
    assert load_checkpoint(copy)['state_dict']
    # nothing is checked where a name has no checksum
    other = tmp_path / 'weights.safetensors'
    shutil.copy(published, other)
    assert load_checkpoint(other)['state_dict']


def test_training_starts_from_the_published_file_and_refuses_a_damaged_one(published, tmp_path):
    start = command('train.py')
    arguments = [str(published.with_suffix('.py')), '--cfg-options', 'train_cfg.max_epochs=1', '--load-from']
    assert start([*arguments, str(published), '--work-dir', str(tmp_path / 'run')]) == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert f'loaded weights from {published}' in log
    damaged = tmp_path / published.name
    damaged.write_bytes(published.read_bytes()[:-1] + b'\x01')
    assert start([*arguments, str(damaged), '--work-dir', str(tmp_path / 'other')]) == 1


def test_metrics_of_an_evaluation_are_published(run, tmp_path):
    metrics = tmp_path / 'metrics.json'
    metrics.write_text(json.dumps({'open_loop/ade': 1.5, 'open_loop/samples': 12}))
    arguments = [str(run / 'epoch_1.pth'), str(tmp_path / 'toy'), '--metrics', str(metrics)]
    assert publish_model(arguments) == 0
    (file,) = tmp_path.glob('*.safetensors')
    assert json.loads(safe_open(file, 'pt').metadata()['metrics']) == {
        'open_loop/ade': 1.5,
        'open_loop/samples': 12,
    }


def test_what_cannot_be_published_ends_in_one_line(run, tmp_path, capsys):
    bare, metrics = tmp_path / 'bare.pth', tmp_path / 'metrics.json'
    torch.save({'a': torch.zeros(2)}, bare)
    metrics.write_text('[1]')
    texts = tmp_path / 'texts.json'
    texts.write_text('{"ade": "low"}')
    for arguments, message in (
        ([run / 'epoch_1.pth', tmp_path / 'x', '--metrics', texts], "the value of 'ade' is no number"),
        ([tmp_path / 'none.pth', tmp_path / 'x'], 'does not exist'),
        ([bare, tmp_path / 'x'], 'holds no config'),
        ([run / 'epoch_1.pth', tmp_path / 'x', '--metrics', metrics], 'is not a file of'),
        ([run / 'epoch_1.pth', bare / 'x'], 'cannot make the folder'),
    ):
        assert publish_model(list(map(str, arguments))) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not list(tmp_path.glob('*.safetensors'))


def test_help_works_without_torch(tmp_path):
    (tmp_path / 'torch.py').write_text('raise ImportError')
    code = (
        f'import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ["--help"]; '
        'runpy.run_path("tools/publish_model.py", run_name="__main__")'
    )
    result = run_python('-c', code)
    assert result.returncode == 0 and 'safetensors' in result.stdout
