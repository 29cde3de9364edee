import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from thinktwice.release_2023.checkpoint.names import official_entries
from thinktwice.release_2023.parity.inputs import EGO2CAM, deterministic_batch, deterministic_weights

SHARED = Path(__file__).resolve().parents[4] / 'shared' / 'golden' / 'make_inputs.py'


@pytest.fixture(scope='module')
def original():
    if not SHARED.is_file():
        pytest.skip('the original generator is not beside this repository')
    return runpy.run_path(str(SHARED))


def assert_equal(found, wanted, where='batch'):
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            assert_equal(found[key], wanted[key], f'{where}.{key}')
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, (left, right) in enumerate(zip(found, wanted, strict=True)):
            assert_equal(left, right, f'{where}[{index}]')
    elif wanted is None:
        assert found is None, where
    else:
        assert found.dtype == wanted.dtype, where
        assert torch.equal(found, wanted), where


@pytest.mark.parametrize(
    'arguments',
    [
        {'seed': 0, 'num_points': 50},
        {'seed': 7, 'batch_size': 3, 'height': 96, 'width': 160, 'num_points': 20},
        {'seed': 2, 'frames': 3, 'height': 64, 'width': 64, 'num_points': 5},
    ],
)
def test_batch_equals_the_original_generator(original, arguments):
    assert_equal(deterministic_batch(**arguments), original['make_batch'](**arguments))


def test_weights_equal_the_original_generator(original):
    small = {name: shape for name, shape in official_entries().items() if np.prod(shape) < 20000}
    assert_equal(deterministic_weights(small), original['fill_weights'](small))


def test_weights_depend_on_the_name_and_not_on_their_neighbors():
    alone = deterministic_weights({'a.weight': (4, 3)})
    together = deterministic_weights({'b.weight': (4, 3), 'a.weight': (4, 3)})
    assert torch.equal(alone['a.weight'], together['a.weight'])
    assert not torch.equal(together['a.weight'], together['b.weight'])


def test_weights_of_each_kind_can_be_used():
    shapes = {
        'bn.running_var': (1000,),
        'bn.num_batches_tracked': (),
        'img_encoder.frustum': (1, 2, 3, 4),
        'linear.weight': (8, 4),
    }
    weights = deterministic_weights(shapes)
    assert 'img_encoder.frustum' not in weights
    assert weights['bn.running_var'].min() >= 1
    assert weights['bn.num_batches_tracked'].dtype == torch.int64
    assert weights['linear.weight'].dtype == torch.float32


def test_batch_depends_on_the_seed_alone():
    first, again, other = (
        deterministic_batch(seed, num_points=10, height=32, width=32) for seed in (1, 1, 2)
    )
    assert_equal(again, first)
    assert not torch.equal(first['img'], other['img'])


def test_recorded_cameras_look_where_their_names_say():
    optical_axes = [rows[2, :3] for rows in EGO2CAM]  # ego x forward, y right, z up
    assert np.array_equal(optical_axes, [[1, 0, 0], [0, -1, 0], [0, 1, 0], [-1, 0, 0]])
