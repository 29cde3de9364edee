import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from thinktwice.checkpoint import weight_file as checkpoint_files
from thinktwice.checkpoint.weight_file import UnsafeCheckpointError, WeightFile, read_weights, write_weights
from thinktwice.errors import WriteError


@pytest.fixture
def weights():
    return OrderedDict([('a.weight', torch.arange(6.0).view(2, 3)), ('b', torch.tensor(3))])


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        assert torch.equal(found[name], wanted[name])


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_bare_nested_and_prefixed_state_dicts_read_alike(tmp_path, weights, nested, prefix):
    stored = OrderedDict((prefix + name, value) for name, value in weights.items())
    torch.save({'state_dict': stored, 'meta': {'epoch': 3}} if nested else stored, tmp_path / 'w.pth')
    file = read_weights(tmp_path / 'w.pth')
    assert_same(file.weights, weights)
    assert file.dropped == (('meta',) if nested else ())


def test_numbers_of_numpy_beside_the_weights_are_read_as_data(tmp_path, weights):
    meta = {'best_score': np.float64(0.5), 'history': np.arange(3.0)}
    torch.save({'state_dict': weights, 'meta': meta}, tmp_path / 'w.pth')
    assert_same(read_weights(tmp_path / 'w.pth').weights, weights)


def test_module_prefix_stays_where_only_some_names_have_it(tmp_path):
    torch.save({'module.a': torch.zeros(1), 'b': torch.zeros(1)}, tmp_path / 'w.pth')
    assert set(read_weights(tmp_path / 'w.pth').weights) == {'module.a', 'b'}


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_written_file_reads_back_with_its_extra_entries(tmp_path, weights, name):
    extra = {'img_encoder.frustum': torch.rand(2, 3), 'count': torch.tensor([1, 2])}
    write_weights(tmp_path / name, WeightFile(weights, extra=extra, numerics='2023'))
    file = read_weights(tmp_path / name)
    assert file.numerics == '2023'
    assert file.dropped == ()
    assert set(file.weights) == set(weights)
    for key, value in weights.items():
        assert torch.equal(file.weights[key], value)
    assert set(file.extra) == set(extra)
    assert torch.equal(file.extra['count'], extra['count'])
    assert file.extra['count'].dtype == torch.int64


def test_module_versions_survive_and_lose_the_module_prefix(tmp_path, weights):
    state_dict = OrderedDict((f'module.{name}', value) for name, value in weights.items())
    state_dict._metadata = OrderedDict({'module.a': {'version': 2}, 'module': {'version': 1}})
    torch.save(state_dict, tmp_path / 'w.pth')
    assert read_weights(tmp_path / 'w.pth').versions['a'] == 2
    write_weights(tmp_path / 'v.pth', WeightFile(weights, versions={'a': 2}))
    assert read_weights(tmp_path / 'v.pth').versions == {'a': 2}


class Exploit:
    def __reduce__(self):
        return (print, ('this must never run',))


@pytest.mark.parametrize('save', [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj, 2))])
def test_file_that_needs_arbitrary_unpickling_is_refused_and_runs_nothing(tmp_path, capsys, save):
    path = tmp_path / 'evil.pth'
    save({'state_dict': {'a': torch.zeros(1)}, 'meta': Exploit()}, path)
    foreign = r'(print|torch\.storage\S+)'  # a tensor in a plain pickle is one as well
    with pytest.raises(UnsafeCheckpointError, match=rf'evil\.pth: refused.*\({foreign}\)'):
        read_weights(path)
    assert 'never' not in capsys.readouterr().out


def test_text_file_is_called_no_checkpoint_rather_than_unsafe(tmp_path):
    (tmp_path / 'w.pth').write_text('hello')
    with pytest.raises(ValueError, match=r'w\.pth: not a checkpoint') as info:
        read_weights(tmp_path / 'w.pth')
    assert not isinstance(info.value, UnsafeCheckpointError)


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_truncated_file_is_reported_with_its_path(tmp_path, weights, name):
    path = tmp_path / name
    write_weights(path, WeightFile(weights))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=name):
        read_weights(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [([1], 'expected a dict'), ({}, 'empty'), ({'a': 1.0}, "'a' is a float"), ({'state_dict': {}}, 'empty')],
)
def test_content_without_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / 'w.pth')


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        read_weights(tmp_path / 'nothing.pth')


def test_interrupted_write_keeps_the_old_file_and_leaves_no_other(tmp_path, weights, monkeypatch):
    path = tmp_path / 'w.pth'
    write_weights(path, WeightFile(weights))
    before = path.read_bytes()

    def fail_half_way(content, target):
        target.write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(checkpoint_files.torch, 'save', fail_half_way)
    with pytest.raises(WriteError, match='disk full'):
        write_weights(path, WeightFile(OrderedDict(a=torch.ones(3))))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
