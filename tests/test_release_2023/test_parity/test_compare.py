import numpy as np
import pytest
import torch

from thinktwice.release_2023.parity.compare import compare, relative_gradient_errors
from thinktwice.release_2023.parity.run import fingerprint


def make_entries():
    return {
        'infer/pred_wp': np.array([[1.0, -4.0], [0.5, 2.0]], dtype=np.float32),
        'loss/wp_loss': np.array(2.0),
        'grad/names': np.array(['a', 'b']),
        'grad/norms': np.array([10.0, 1.0]),
    }


def errors(stored, computed):
    return {deviation.entry: deviation.error for deviation in compare(stored, computed)}


def test_equal_entries_have_no_error():
    assert set(errors(make_entries(), make_entries()).values()) == {0.0}


def test_error_is_relative_to_the_largest_magnitude_and_sorted():
    computed = make_entries()
    computed['infer/pred_wp'] = computed['infer/pred_wp'] + np.array([[0, 0], [0.04, 0]], dtype=np.float32)
    computed['loss/wp_loss'] = np.array(2.1)
    deviations = compare(make_entries(), computed)
    assert [deviation.entry for deviation in deviations[:2]] == ['loss/wp_loss', 'infer/pred_wp']
    assert deviations[0].error == pytest.approx(0.05)
    assert deviations[1].error == pytest.approx(0.01, rel=1e-4)


def test_gradients_are_matched_by_name():
    computed = make_entries()
    computed['grad/names'], computed['grad/norms'] = np.array(['b', 'a']), np.array([1.0, 10.0])
    assert errors(make_entries(), computed)['grad/norms'] == 0
    computed['grad/norms'] = np.array([10.0, 1.0])
    assert errors(make_entries(), computed)['grad/norms'] == pytest.approx(0.9)
    worst = relative_gradient_errors(make_entries(), computed)[0]
    assert (worst.entry, worst.error) == ('grad/b', pytest.approx(9.0))


@pytest.mark.parametrize(
    ('names', 'entry'), [(['a'], 'grad/b'), (['a', 'b', 'c'], 'grad/c'), (['a', 'x'], 'grad/x')]
)
def test_gradient_on_one_side_only_fails(names, entry):
    computed = make_entries()
    computed['grad/names'], computed['grad/norms'] = np.array(names), np.ones(len(names))
    assert errors(make_entries(), computed)[entry] == float('inf')


@pytest.mark.parametrize('value', [None, np.zeros((2, 3)), np.array([[1.0, np.nan], [0.5, 2.0]])])
def test_absent_misshapen_and_nan_entries_fail(value):
    computed = make_entries()
    if value is None:
        del computed['infer/pred_wp']
    else:
        computed['infer/pred_wp'] = value
    worst = compare(make_entries(), computed)[0]
    assert worst.entry == 'infer/pred_wp'
    assert worst.error == float('inf')


def test_fingerprint_has_even_samples_and_summary():
    values = torch.arange(640.0).view(2, 320) - 100
    print_ = fingerprint(values)
    assert print_.shape == (67,)
    assert (print_[0], print_[63]) == (-100, 539)
    assert print_[64] == pytest.approx(values.mean().item())
    assert print_[65] == pytest.approx(values.std().item(), rel=1e-6)
    assert print_[66] == 539
