"""Checkpoint files read back as saved, in both formats, and nothing in them is run."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from thinktwice.checkpoint.file import (
    UntrustedCheckpointError,
    check_training_state,
    load_checkpoint,
    save_checkpoint,
)
from thinktwice.errors import CheckpointError, WriteError


@pytest.fixture
def weights():
    return OrderedDict([('a.weight', torch.arange(6.0).view(2, 3)), ('b', torch.tensor(3))])


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name])


def test_saved_checkpoint_reads_back(tmp_path, weights):
    save_checkpoint({'state_dict': weights, 'meta': {'iter': 3}}, tmp_path / 'iter_3.pth')
    checkpoint = load_checkpoint(tmp_path / 'iter_3.pth')
    assert checkpoint['meta'] == {'iter': 3}
    assert_same(checkpoint['state_dict'], weights)


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_both_formats_keep_official_entries_and_numerics(tmp_path, weights, name):
    extra = {'img_encoder.frustum': torch.rand(2, 3), 'count': torch.tensor([1, 2])}
    save_checkpoint({'state_dict': weights, 'official_extra': extra, 'numerics': '2023'}, tmp_path / name)
    checkpoint = load_checkpoint(tmp_path / name)
    assert set(checkpoint) == {'state_dict', 'official_extra', 'numerics'}
    assert checkpoint['numerics'] == '2023'
    for part, expected in (('state_dict', weights), ('official_extra', extra)):
        found = checkpoint[part]
        assert_same({key: found[key] for key in expected}, expected)
        assert len(found) == len(expected)


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_weights_alone_have_nothing_beside_them(tmp_path, weights, name):
    save_checkpoint({'state_dict': weights}, tmp_path / name)
    assert list(load_checkpoint(tmp_path / name)) == ['state_dict']


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_bare_nested_and_prefixed_state_dicts_read_alike(tmp_path, weights, nested, prefix):
    stored = OrderedDict((prefix + name, value) for name, value in weights.items())
    torch.save({'state_dict': stored, 'meta': {'epoch': 3}} if nested else stored, tmp_path / 'w.pth')
    checkpoint = load_checkpoint(tmp_path / 'w.pth')
    assert_same(checkpoint['state_dict'], weights)
    assert set(checkpoint) == ({'state_dict', 'meta'} if nested else {'state_dict'})


def test_module_prefix_stays_where_only_some_names_have_it(tmp_path):
    torch.save({'module.a': torch.zeros(1), 'b': torch.zeros(1)}, tmp_path / 'w.pth')
    assert set(load_checkpoint(tmp_path / 'w.pth')['state_dict']) == {'module.a', 'b'}


def test_module_versions_are_kept_and_lose_the_module_prefix(tmp_path, weights):
    state_dict = OrderedDict((f'module.{name}', value) for name, value in weights.items())
    state_dict._metadata = OrderedDict({'module.a': {'version': 2}, 'module': {'version': 1}})
    torch.save(state_dict, tmp_path / 'w.pth')
    read = load_checkpoint(tmp_path / 'w.pth')
    assert read['state_dict']._metadata['a'] == {'version': 2}
    save_checkpoint(read, tmp_path / 'v.pth')
    assert load_checkpoint(tmp_path / 'v.pth')['state_dict']._metadata['a'] == {'version': 2}


def test_numbers_of_numpy_beside_the_weights_are_read_as_data(tmp_path, weights):
    meta = {'best_score': np.float64(0.5), 'history': np.arange(3.0)}
    torch.save({'state_dict': weights, 'meta': meta}, tmp_path / 'w.pth')
    checkpoint = load_checkpoint(tmp_path / 'w.pth')
    assert_same(checkpoint['state_dict'], weights)
    assert checkpoint['meta']['best_score'] == 0.5


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_interrupted_save_keeps_the_old_file_and_leaves_no_other(tmp_path, weights, name, monkeypatch):
    path = tmp_path / name
    save_checkpoint({'state_dict': weights}, path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(WriteError, match='disk full'):
        save_checkpoint({'state_dict': {'a': torch.ones(3)}}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': [1]}, 'its state_dict is of type list, expected dict'),
        ({'state_dict': {1: torch.ones(1)}}, 'entry 1 of its state_dict is of type Tensor'),
        ({'state_dict': {'w': 2}}, "entry 'w' of its state_dict is of type int"),
        ({'state_dict': {'w': torch.ones(1)}, 'ema_state_dict': {'w': 2}}, "'w' of its ema_state_dict"),
        ({1: torch.ones(1)}, 'entry 1 of its state_dict'),
        ({'w': torch.ones(1), 'epoch': 3}, "entry 'epoch' of its state_dict is of type int"),
        ({'w': np.ones(1)}, "the weights in its state_dict are arrays .'w' is one"),
        ({'state_dict': {'w': np.ones(1)}}, "the weights in its state_dict are arrays .'w' is one"),
        ({}, 'its state_dict is empty'),
        ({'state_dict': {}}, 'its state_dict is empty'),
        ({'a': 1.0}, r'its top-level keys are a \(float\)'),
        (
            {'model': {'w': torch.ones(1)}, 'optimizer': {}, 'epoch': 3},
            r'its top-level keys are model \(dict\), optimizer \(dict\), epoch \(int\)',
        ),
    ],
)
def test_weights_of_another_kind_are_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / 'odd.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'meta': 7}, 'its meta is of type int, expected dict'),
        ({'optimizer': 3}, 'its optimizer is of type int'),
        ({'param_schedulers': {}}, 'its param_schedulers is of type dict, expected list'),
        ({'meta': {'iter': 'six'}}, r'its meta\.iter is of type str, expected int'),
        ({'meta': {'cfg': True}}, r'its meta\.cfg is of type bool, expected str'),
        ({'meta': {'batches_done': -1}}, r'its meta\.batches_done is -1'),
    ],
)
def test_training_state_of_another_kind_is_refused_in_one_line(content, message):
    with pytest.raises(CheckpointError, match=message):
        check_training_state('odd.pth', content)


def test_checkpoint_of_mmengine_is_read_without_its_logs(tmp_path):
    hub = MessageHub.get_instance('checkpoint_test')
    for value in range(3):
        hub.update_scalar('train/loss', float(value))
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'w': torch.ones(2)}, 'message_hub': hub.state_dict()}, path)
    assert torch.equal(load_checkpoint(path)['state_dict']['w'], torch.ones(2))


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('was_run',)


def test_file_that_runs_code_is_refused_unless_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {'w': torch.ones(1)}, 'extra': RunsCode()}, path)
    with pytest.raises(
        UntrustedCheckpointError, match=r'holds more than weights .*mkdir.*--trust-checkpoint'
    ):
        load_checkpoint(path)
    assert not (tmp_path / 'was_run').exists()
    load_checkpoint(path, trust=True)
    assert (tmp_path / 'was_run').exists()


class Prints:
    def __reduce__(self):
        return print, ('this must never run',)


@pytest.mark.parametrize('save', [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj, 2))])
def test_archive_or_plain_pickle_that_needs_more_than_data_is_refused(tmp_path, capsys, save):
    path = tmp_path / 'evil.pth'
    save({'state_dict': {'a': torch.zeros(1)}, 'meta': Prints()}, path)
    foreign = r'(\w*\.?print|torch\.storage\S+)'  # a tensor in a plain pickle is foreign, too
    with pytest.raises(UntrustedCheckpointError, match=rf'evil\.pth holds more than weights \({foreign}\)'):
        load_checkpoint(path)
    assert 'never' not in capsys.readouterr().out


class ReachesThroughGetattr:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__setstate__')


def test_stand_ins_for_mmengine_classes_give_no_way_to_code(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {'w': torch.ones(1)}, 'extra': ReachesThroughGetattr()}, path)
    assert load_checkpoint(path)['extra'] is None


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'garbage ' * 9, '.+'),
        (b'config = 3\nother = 4\n', '.+'),  # c is the opcode of a global
        (b'PK\x03\x04' + bytes(90), '.+'),
    ],
)
def test_file_that_is_no_checkpoint_is_refused_in_a_few_words(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'cut short or not a checkpoint \({reason}\)') as caught:
        load_checkpoint(tmp_path / name)
    assert not isinstance(caught.value, UntrustedCheckpointError)
    words = str(caught.value).replace(str(tmp_path), '')
    assert len(words) < 200
    assert 'weights_only' not in words


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_truncated_file_is_refused_with_its_path(tmp_path, weights, name):
    path = tmp_path / name
    save_checkpoint({'state_dict': weights}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf'{name} cannot be read'):
        load_checkpoint(path)


def test_flipped_bit_of_a_tensor_is_refused_with_its_entry(tmp_path, weights):
    path = tmp_path / 'w.pth'
    save_checkpoint({'state_dict': {**weights, 'large': torch.randn(5000)}}, path)
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
        middle = path.read_bytes().index(archive.read(record)) + record.file_size // 2
    content = bytearray(path.read_bytes())
    content[middle] ^= 4
    path.write_bytes(content)
    for mmap in (False, True):
        with pytest.raises(CheckpointError, match=rf'w\.pth is damaged: .*{record.filename}') as caught:
            load_checkpoint(path, mmap=mmap)
        assert '\n' not in str(caught.value)


def test_file_written_without_checksums_is_read(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(torch.serialization, 'get_crc32_options', lambda: False)
    torch.save(weights, tmp_path / 'w.pth')
    with zipfile.ZipFile(tmp_path / 'w.pth') as archive:
        assert archive.testzip() is not None
    assert_same(load_checkpoint(tmp_path / 'w.pth')['state_dict'], weights)


def test_foreign_content_and_missing_file(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list where a dict was expected'):
        load_checkpoint(tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_bytes(pickle.dumps('text')[:5])
    with pytest.raises(CheckpointError, match='cannot be read'):
        load_checkpoint(tmp_path / 'text.pth')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_checkpoint(tmp_path / 'none.pth')
