"""``tools/check_parity.py`` as a user runs it; test_release_2023/test_parity compares the model itself."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from thinktwice import apis
from thinktwice.release_2023 import parity

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'check_parity.py'

GENERATOR = """
def fill_weights(shapes):
    return 'weights of the file'


def make_batch(seed, batch_size=1, frames=2, height=128, width=256, num_points=6000):
    return dict(seed=seed, batch_size=batch_size, height=height, width=width, num_points=num_points)
"""


@pytest.fixture
def stored():
    return {
        'infer/pred_wp': np.array([1.0, 2.0], dtype=np.float32),
        'grad/names': np.array(['a', 'b']),
        'grad/norms': np.array([1.0, 2.0]),
    }


@pytest.fixture
def check(monkeypatch, tmp_path, stored):
    """Run the tool on a model whose outputs are given; returns exit code and what the model was given."""
    np.savez(tmp_path / 'golden.npz', **stored)

    def run(computed, *arguments):
        seen = {}

        def run_batch(model, batch):
            seen.update(batch=batch, fill_weights=model)
            return computed

        monkeypatch.setattr(apis, 'init_model', lambda config, device: 'a model')
        monkeypatch.setattr(parity, 'fill_model', lambda model, fill: fill)
        monkeypatch.setattr(parity, 'run_batch', run_batch)
        monkeypatch.setattr(sys, 'argv', [str(TOOL), str(tmp_path / 'golden.npz'), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(TOOL), run_name='__main__')
        return exit_.value.code, seen

    return run


SMALL = ('--height', 32, '--width', 64, '--num-points', 5)


def test_agreement_exits_with_0(check, stored, capsys):
    code, seen = check(stored, '--seed', 3, '--batch-size', 2, *SMALL)
    assert code == 0
    assert seen['batch']['img'].shape == (2, 2, 4, 3, 32, 64)
    assert seen['batch']['points'].shape == (2, 1, 5, 5)
    assert 'OK' in capsys.readouterr().out


@pytest.mark.parametrize('key', ['infer/pred_wp', 'grad/norms'])
def test_deviation_exits_with_1_and_names_the_entry(check, stored, capsys, key):
    computed = {**stored, key: stored[key] + np.array([0.0, 0.01], dtype=stored[key].dtype)}
    assert check(computed, *SMALL)[0] == 1
    printed = capsys.readouterr().out
    assert 'FAILED' in printed
    assert key in printed


def test_missing_and_nan_entries_exit_with_1(check, stored):
    assert check({**stored, 'infer/pred_wp': np.array([1.0, np.nan])}, *SMALL)[0] == 1
    del stored['infer/pred_wp']
    assert check(stored, *SMALL)[0] == 1


def test_tolerance_is_an_option(check, stored):
    computed = {**stored, 'infer/pred_wp': stored['infer/pred_wp'] * np.float32(1.01)}
    assert check(computed, *SMALL, '--tolerance', 0.1)[0] == 0


def test_generator_of_a_given_file_is_used(check, stored, tmp_path):
    path = tmp_path / 'generator.py'
    path.write_text(GENERATOR)
    code, seen = check(stored, '--seed', 4, '--batch-size', 3, *SMALL, '--make-inputs', path)
    assert code == 0
    assert seen['batch'] == {'seed': 4, 'batch_size': 3, 'height': 32, 'width': 64, 'num_points': 5}
    assert seen['fill_weights']({}) == 'weights of the file'


def test_unusable_files_are_named_and_exit_with_1(check, stored, tmp_path, capsys):
    path = tmp_path / 'generator.py'
    path.write_text('make_batch = None')
    assert check(stored, '--make-inputs', path)[0] == 1
    assert 'generator.py: defines no function fill_weights' in capsys.readouterr().err
    assert check(stored, '--make-inputs', tmp_path / 'absent.py')[0] == 1
    assert 'absent.py: no such file' in capsys.readouterr().err
