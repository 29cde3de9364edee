"""Updates with accumulation, mixed precision and bad steps, against plain torch."""

import copy
import inspect

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from thinktwice.config.keys import ParamwiseKeys
from thinktwice.core.optim_wrapper import GuardedOptimWrapper, check_paramwise
from thinktwice.errors import ConfigError


def make(lr: float = 0.1, **options) -> tuple[nn.Linear, GuardedOptimWrapper]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    wrapper = GuardedOptimWrapper(torch.optim.SGD(model.parameters(), lr=lr), **options)
    wrapper.initialize_count_status(model, 0, 100)
    return model, wrapper


def train_on(
    model: nn.Module, wrapper: GuardedOptimWrapper, batch: torch.Tensor, factor: float = 1.0
) -> None:
    with wrapper.optim_context(model):
        loss = model(batch).square().mean() * factor
    wrapper.update_params(loss)


def test_step_equals_plain_torch_with_clipping():
    model, wrapper = make(clip_grad=dict(max_norm=0.1))
    plain = copy.deepcopy(model)
    batch = torch.randn(4, 3)
    train_on(model, wrapper, batch)
    plain(batch).square().mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.1 * parameter.grad
    assert torch.allclose(model.weight, plain.weight)
    assert wrapper.grad_norm == pytest.approx(norm.item())


def test_accumulation_equals_one_large_batch():
    batch = torch.randn(8, 3)
    large, wrapper = make()
    train_on(large, wrapper, batch)
    small, wrapper = make(accumulative_counts=4)
    for part in batch.split(2):
        assert not torch.equal(small.weight, large.weight)
        train_on(small, wrapper, part)
    assert torch.allclose(small.weight, large.weight, atol=1e-6)
    assert not wrapper.is_accumulating


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_bad_step_changes_nothing_and_is_counted(value):
    model, wrapper = make(clip_grad=dict(max_norm=1.0))
    before = model.weight.clone()
    for count in (1, 2):
        train_on(model, wrapper, torch.randn(4, 3), value)
        assert torch.equal(model.weight, before)
        assert (wrapper.bad_steps, wrapper.bad_steps_in_a_row) == (count, count)
    train_on(model, wrapper, torch.randn(4, 3))
    assert not torch.equal(model.weight, before)
    assert (wrapper.bad_steps, wrapper.bad_steps_in_a_row) == (2, 0)


def test_one_bad_batch_of_an_accumulated_step_drops_the_step():
    model, wrapper = make(accumulative_counts=2)
    before = model.weight.clone()
    train_on(model, wrapper, torch.randn(4, 3), float('nan'))
    train_on(model, wrapper, torch.randn(4, 3))
    assert torch.equal(model.weight, before)
    assert wrapper.bad_steps == 1


@pytest.mark.parametrize(('dtype', 'tolerance'), [('bfloat16', 2e-2), ('float16', 2e-3)])
def test_mixed_precision_stays_near_single_precision(dtype, tolerance):
    batch = torch.randn(16, 3)
    exact, wrapper = make()
    for _ in range(5):
        train_on(exact, wrapper, batch)
    mixed, wrapper = make(amp_dtype=dtype, loss_scale=256.0)
    for _ in range(5):
        train_on(mixed, wrapper, batch)
    assert mixed.weight.dtype == torch.float32
    assert not torch.equal(mixed.weight, exact.weight)
    assert torch.allclose(mixed.weight, exact.weight, atol=tolerance)
    assert wrapper.bad_steps == 0


def test_overflow_in_float16_lowers_the_scale_and_is_no_bad_step():
    model, wrapper = make(amp_dtype='float16', loss_scale=2.0**40)
    before = model.weight.clone()
    train_on(model, wrapper, torch.randn(4, 3), 1e3)
    assert torch.equal(model.weight, before)
    assert wrapper.loss_scaler.get_scale() == 2.0**39
    assert (wrapper.bad_steps, wrapper.overflows, wrapper.has_updated) == (0, 1, False)


def test_gradients_that_are_never_finite_are_bad_steps_once_the_scale_is_lowest():
    """The loss is finite; the scale does not sink to where gradients vanish."""
    model, wrapper = make(amp_dtype='float16', loss_scale=4.0)
    before = model.weight.clone()
    handle = model.weight.register_hook(lambda gradient: gradient * float('nan'))
    counts = []
    for _ in range(4):
        train_on(model, wrapper, torch.randn(4, 3))
        counts.append((wrapper.overflows, wrapper.bad_steps, wrapper.loss_scaler.get_scale()))
    assert counts == [(1, 0, 2.0), (2, 0, 1.0), (2, 1, 1.0), (2, 2, 1.0)]
    assert torch.equal(model.weight, before)
    handle.remove()
    train_on(model, wrapper, torch.randn(4, 3))
    assert wrapper.has_updated
    assert wrapper.bad_steps_in_a_row == 0


def test_state_is_plain_and_restores_scale_and_counts(tmp_path):
    model, wrapper = make(amp_dtype='float16')
    train_on(model, wrapper, torch.randn(4, 3), float('nan'))
    torch.save(wrapper.state_dict(), tmp_path / 'state.pth')
    state = torch.load(tmp_path / 'state.pth', weights_only=True)
    _, restored = make(amp_dtype='float16')
    restored.load_state_dict(state)
    assert restored.loss_scaler.get_scale() == wrapper.loss_scaler.get_scale()
    assert restored.bad_steps == 1
    _, plain = make()
    plain.load_state_dict({'state': {}, 'param_groups': state['param_groups']})
    assert plain.bad_steps == 0


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match=r"amp_dtype must be None or one of .*got 'float8'"):
        make(amp_dtype='float8')


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(custom_key={'weight': dict(lr_mult=0.1)}), "no key 'custom_key'.*custom_keys"),
        (dict(custom_keys={'wieght': dict(lr_mult=0.1)}), "'wieght' is in no parameter name"),
        (
            dict(custom_keys={'weight': dict(lr_mul=0.1)}),
            r"\['weight'\]\.lr_mul: no such option.*lr_mult.*eps",
        ),
        (dict(custom_keys={'weight': dict(lr_mult='a')}), r"\['weight'\]\.lr_mult must be a number, got 'a'"),
        (dict(custom_keys={'weight': 0.1}), 'custom_keys.weight must be a dict, got 0.1'),
        (dict(norm_decay_mult='a'), "norm_decay_mult must be a number, got 'a'"),
        (dict(dcn_offset_lr_mult=0.1), 'no effect.*conv_offset'),
    ],
)
def test_paramwise_options_without_effect_are_refused(paramwise, message):
    with pytest.raises(ConfigError, match=message):
        check_paramwise(dict(optimizer=dict(type='AdamW'), paramwise_cfg=paramwise), nn.Linear(2, 2))


def test_paramwise_options_that_are_read_are_accepted():
    multipliers = [name for name in ParamwiseKeys.__annotations__ if name.endswith('_mult')]
    options = dict.fromkeys(multipliers, 1.0) | {'bypass_duplicate': True}
    options['custom_keys'] = {'weig': dict(lr_mult=1, decay_mult=0.0, betas=(0.8, 0.9))}
    del options['dcn_offset_lr_mult']
    check_paramwise(dict(optimizer=dict(type='AdamW'), paramwise_cfg=options), nn.Linear(2, 2))
    check_paramwise(dict(paramwise_cfg=dict(layer_decay=0.9), constructor='Own'), nn.Linear(2, 2))
    check_paramwise({}, nn.Linear(2, 2))
    source = inspect.getsource(DefaultOptimWrapperConstructor)
    assert all(f"'{key}'" in source for key in ParamwiseKeys.__annotations__)
