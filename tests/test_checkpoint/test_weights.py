"""Weights that are the model's are copied; others are refused, or named and left out."""

import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from thinktwice.checkpoint import weights as weights_module
from thinktwice.checkpoint.weights import load_weights
from thinktwice.errors import CheckpointError

HINT = 'Pass strict_load=False.'


@pytest.fixture
def model():
    return nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.Linear(3, 1)))


@pytest.fixture
def warnings(monkeypatch):
    texts = []

    def collect(text, logger, level):
        assert level == logging.WARNING
        texts.append(text)

    monkeypatch.setattr(weights_module, 'print_log', collect)
    return texts


def other_weights(model, **changes):
    """Weights that are not the model's, with some replaced; None leaves one out."""
    state = {name: value + 1 for name, value in model.state_dict().items()}
    state.update({name.replace('__', '.'): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}


def test_weights_of_the_model_are_copied_without_a_warning(model, warnings):
    weights = other_weights(model)
    load_weights(model, {'state_dict': weights}, 'a.pth')
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not warnings


def test_names_that_differ_are_refused_with_the_hint(model):
    weights = other_weights(model, first__bias=None, third=torch.ones(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, {'state_dict': weights}, 'a.pth', hint=HINT)
    message = str(error.value)
    assert 'a.pth does not fit the model' in message
    assert '1 missing (first.bias); 1 unexpected (third)' in message
    assert message.endswith(HINT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.bool, torch.int64, torch.complex64])
def test_another_kind_of_numbers_is_refused(model, dtype):
    weights = other_weights(model, second__weight=torch.ones(1, 3, dtype=dtype))
    with pytest.raises(CheckpointError, match=r'1 of another shape or type \(second.weight\)'):
        load_weights(model, {'state_dict': weights}, 'a.pth')
    load_weights(model, {'state_dict': other_weights(model, second__weight=torch.ones(1, 3).half())}, 'a.pth')


def test_another_shape_is_refused_without_the_hint(model):
    weights = other_weights(model, second__weight=torch.ones(2, 3), first__bias=None)
    with pytest.raises(CheckpointError, match=r'1 of another shape or type \(second.weight\)') as error:
        load_weights(model, {'state_dict': weights}, 'a.pth', hint=HINT)
    assert HINT not in str(error.value)


def test_what_does_not_fit_is_left_out_and_named_when_asked_for(model, warnings):
    weights = other_weights(model, second__weight=torch.ones(2, 3), first__bias=None, third=torch.ones(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, {'state_dict': weights}, 'a.pth', strict=False)
    (text,) = warnings
    for part in (
        '1 missing (first.bias)',
        '1 unexpected (third)',
        '1 of another shape or type (second.weight)',
    ):
        assert part in text
    after = model.state_dict()
    for name in ('second.weight', 'first.bias'):
        assert torch.equal(after[name], before[name])
    for name in ('first.weight', 'second.bias'):
        assert torch.equal(after[name], weights[name])


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('change', ['names', 'shapes'])
def test_no_weight_in_common_is_an_error_that_names_the_top_level_keys(model, strict, change):
    state = other_weights(model)
    if change == 'names':
        weights = {f'model.{name}': value for name, value in state.items()}
    else:
        weights = {name: value[None] for name, value in state.items()}
    checkpoint = {'state_dict': weights, 'epoch': 3, 'hyper_parameters': {}}
    with pytest.raises(CheckpointError, match='no weight in common') as error:
        load_weights(model, checkpoint, 'a.pth', strict, HINT)
    message = str(error.value)
    assert 'state_dict, epoch, hyper_parameters' in message
    assert next(iter(weights)) in message
    assert HINT not in message


def test_weights_that_cannot_be_copied_are_an_error_in_one_line(model):
    weights = other_weights(model)
    weights['second.weight'] = weights['second.weight'].to_sparse()
    with pytest.raises(CheckpointError, match=r'1 weights cannot be copied .*\(second.weight\)') as error:
        load_weights(model, {'state_dict': weights}, 'a.pth', strict=False)
    assert '\n' not in str(error.value)


def test_values_that_are_not_finite_are_named_in_a_warning(model, warnings):
    weights = other_weights(model, second__weight=torch.tensor([[1.0, torch.nan, torch.inf]]))
    load_weights(model, {'state_dict': weights}, 'a.pth')
    (text,) = warnings
    assert 'a.pth holds NaN or infinite values in 1 weights (second.weight)' in text
