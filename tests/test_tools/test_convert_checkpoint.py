"""``tools/convert_checkpoint.py`` as a user runs it, on a small model of the reference types."""

import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from helpers.reference_config import write_small_configs

from thinktwice.checkpoint.file import load_checkpoint
from thinktwice.config.load import load_config
from thinktwice.release_2023.checkpoint.conversion import (
    build_model,
    model_shapes,
    ours_to_official,
    to_spconv1,
)
from thinktwice.release_2023.checkpoint.names import DERIVED_ENTRIES

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert_checkpoint.py'


def read_weights(path):
    return load_checkpoint(path)['state_dict']


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_small_configs(tmp_path_factory.mktemp('config'))[1]


@pytest.fixture(scope='module')
def official(config):
    """Weights of the small model in the official format, the derived entries included."""
    shapes = model_shapes(build_model(load_config(str(config)), device='meta'))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith('num_batches_tracked')
        else torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }
    conversion = ours_to_official(weights, shapes)
    conversion.weights.update({name: torch.rand(3) for name in DERIVED_ENTRIES})
    return conversion.weights


@pytest.fixture
def convert(monkeypatch, config):
    def run(*arguments, config=config):
        command = [str(TOOL), *map(str, arguments), '--config', str(config)]
        monkeypatch.setattr(sys, 'argv', command)
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(TOOL), run_name='__main__')
        return exit_.value.code

    return run


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_there_and_back_loses_nothing(tmp_path, convert, official, suffix):
    torch.save({'state_dict': official, 'meta': {'epoch': 60}}, tmp_path / 'official.pth')
    assert convert(tmp_path / 'official.pth', tmp_path / f'ours{suffix}') == 0
    assert convert(tmp_path / f'ours{suffix}', tmp_path / 'back.pth') == 0
    back = read_weights(tmp_path / 'back.pth')
    assert set(back) == set(official)
    for name, value in official.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value), name


def test_all_forms_of_a_file_convert_alike(tmp_path, convert, official):
    forms = {
        'bare': official,
        'prefixed': OrderedDict((f'module.{name}', value) for name, value in official.items()),
        'old_kernels': OrderedDict(
            (name, to_spconv1(value) if value.dim() == 5 else value) for name, value in official.items()
        ),
    }
    results = []
    for form, state_dict in forms.items():
        torch.save(state_dict, tmp_path / f'{form}.pth')
        assert convert(tmp_path / f'{form}.pth', tmp_path / f'{form}_ours.pth') == 0
        results.append(read_weights(tmp_path / f'{form}_ours.pth'))
    for other in results[1:]:
        assert list(other) == list(results[0])
        assert all(torch.equal(other[name], results[0][name]) for name in other)


def test_converted_file_loads_strictly(tmp_path, convert, config, official):
    torch.save(official, tmp_path / 'official.pth')
    assert convert(tmp_path / 'official.pth', tmp_path / 'ours.pth') == 0
    content = torch.load(tmp_path / 'ours.pth', weights_only=True)
    build_model(load_config(str(config))).load_state_dict(content['state_dict'], strict=True)


def test_partial_file_prints_a_table_and_writes_nothing(tmp_path, convert, official, capsys):
    partial = OrderedDict(official)
    del partial['output_fc.0.weight']
    partial['conv_cam.0.weight'] = torch.zeros(1, 2)
    partial['surplus'] = torch.zeros(1)
    torch.save(partial, tmp_path / 'partial.pth')
    assert convert(tmp_path / 'partial.pth', tmp_path / 'ours.pth') == 1
    assert not (tmp_path / 'ours.pth').exists()
    printed = capsys.readouterr().out
    for text in (
        'missing: 1',
        'flatten_head.vector_head.0.weight',
        'misshapen: 1',
        'unexpected: 1',
        'surplus',
    ):
        assert text in printed


def test_unsafe_foreign_and_absent_files_are_refused(tmp_path, convert, capsys):
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'args': Path('x')}, tmp_path / 'unsafe.pth')
    torch.save({'backbone.conv1.weight': torch.zeros(1)}, tmp_path / 'foreign.pth')
    for name, message in [
        ('unsafe.pth', 'pathlib'),
        ('foreign.pth', 'is it a ThinkTwice checkpoint'),
        ('absent.pth', 'does not exist'),
    ]:
        assert convert(tmp_path / name, tmp_path / 'ours.pth') == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ') and message in line
    assert not (tmp_path / 'ours.pth').exists()


@pytest.fixture
def run_of_main(tmp_path, config):
    """Checkpoint of a run of the corrected config, which lies beside the reference one; and that config."""
    own = config.parent / 'small_main.py'
    shapes = model_shapes(build_model(load_config(str(own)), device='meta'))
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({'state_dict': weights, 'meta': {'iter': 3}, 'optimizer': {}}, tmp_path / 'epoch_60.pth')
    return tmp_path / 'epoch_60.pth', own


def test_file_of_another_config_converts_once_that_is_named(tmp_path, convert, run_of_main, capsys):
    file, own = run_of_main
    assert convert(file, tmp_path / 'official.pth', '--to', 'official') == 1
    printed = capsys.readouterr().out
    assert 'given by --config' in printed and 'not converted: meta, optimizer' in printed
    assert convert(file, tmp_path / 'official.pth', '--to', 'official', config=own) == 0
    assert (tmp_path / 'official.pth').is_file()


def test_help_names_the_config_of_a_run_to_convert(convert, capsys):
    assert convert('--help') == 0
    assert '--to official \\\n        --config configs/thinktwice.py\n' in capsys.readouterr().out


def test_existing_target_is_kept_unless_forced(tmp_path, convert, official, capsys):
    torch.save(official, tmp_path / 'official.pth')
    (tmp_path / 'ours.pth').write_text('precious')
    assert convert(tmp_path / 'official.pth', tmp_path / 'ours.pth') == 1
    assert '--force' in capsys.readouterr().err
    assert (tmp_path / 'ours.pth').read_text() == 'precious'
    assert convert(tmp_path / 'official.pth', tmp_path / 'ours.pth', '--force') == 0
    assert read_weights(tmp_path / 'ours.pth')


def test_check_only_writes_nothing(tmp_path, convert, official):
    torch.save(official, tmp_path / 'official.pth')
    before = set(tmp_path.iterdir())
    assert convert(tmp_path / 'official.pth') == 0
    assert set(tmp_path.iterdir()) == before
