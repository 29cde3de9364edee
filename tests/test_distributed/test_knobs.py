"""Memory and speed knobs of the config change what they say they change, and not the result."""

import re

import pytest
import torch
from helpers.ranks import start_ranks
from helpers.small_driver import LOSSES, inputs_for, small_driver, targets_for
from helpers.small_runs import NUM_SAMPLES, train_small
from torch.nn.modules.batchnorm import _BatchNorm

from thinktwice.core import model_options
from thinktwice.errors import ConfigError

SLOW = pytest.mark.slow


def step(model, inputs, targets):
    """Losses and gradients of a training step; random numbers are those of one seed."""
    torch.manual_seed(1)
    model.zero_grad()
    losses = model(inputs, targets, mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return losses, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture(scope='module')
def plain():
    """The model, a batch and what a step computes without any knob."""
    torch.manual_seed(0)
    model, inputs, targets = small_driver(), inputs_for(), targets_for()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    losses, gradients = step(model, inputs, targets)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    return state, inputs, targets, losses, gradients, buffers


def with_knob(plain, change):
    state, inputs, targets, *_ = plain
    model = small_driver()
    model.load_state_dict(state)
    change(model)
    return model, *step(model, inputs, targets)


@pytest.mark.parametrize(
    'parts', [['img_encoder', 'decoder'], ['img_encoder', 'lidar_encoder', 'bev_fusion', 'decoder']]
)
def test_recomputed_activations_give_the_same_bits(plain, parts):
    model, losses, gradients = with_knob(plain, lambda m: model_options.recompute_activations(m, parts))
    for name, value in plain[3].items():
        assert torch.equal(losses[name], value), name
    for name, value in plain[4].items():
        assert torch.equal(gradients[name], value), name
    for name, value in plain[5].items():  # a second pass must not count twice in the statistics
        assert torch.equal(dict(model.named_buffers())[name], value), name
    assert all(norm.momentum for norm in model.modules() if isinstance(norm, _BatchNorm))


def test_recomputed_activations_are_not_kept():
    def saved(change):
        model, size = small_driver(), [0]
        change(model)
        torch.manual_seed(0)

        def count(tensor):
            size[0] += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(inputs_for(), targets_for(), mode='loss')
        return size[0]

    recomputed = saved(lambda m: model_options.recompute_activations(m, ['img_encoder', 'decoder']))
    assert recomputed < 0.5 * saved(lambda m: None)


def test_channels_last_gives_equal_losses_and_gradients(plain):
    model, losses, gradients = with_knob(plain, model_options.use_channels_last)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size > (1, 1)]
    assert convolutions
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    for name, value in plain[3].items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-5)
    for name, value in plain[4].items():
        assert (gradients[name] - value).abs().max() <= 1e-3 * value.abs().max().clamp(min=1), name


def test_gradients_of_kernels_of_1x1_keep_their_strides_behind_channels_last_images():
    layer = torch.nn.Conv2d(6, 4, 1)
    model_options.keep_gradient_strides(layer)
    images = torch.randn(2, 6, 5, 5)
    layer(images.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()
    expected = torch.einsum('nohw,nihw->oi', 2 * layer(images), images)
    torch.testing.assert_close(layer.weight.grad[..., 0, 0], expected.detach())


@SLOW
@pytest.mark.parametrize('options', [dict(modules=['img_encoder']), dict(modules=[''])])
def test_compiled_model_gives_equal_losses_and_gradients(plain, options):
    """``aot_eager`` traces forward and backward as ``inductor`` does, and needs no compiler."""
    _, losses, gradients = with_knob(
        plain, lambda m: model_options.compile_parts(m, dict(backend='aot_eager', **options))
    )
    for name, value in plain[3].items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)
    for name, value in plain[4].items():
        assert (gradients[name] - value).abs().max() <= 1e-3 * value.abs().max().clamp(min=1), name


def test_part_that_does_not_exist_is_named():
    with pytest.raises(
        ConfigError, match="recompute: the model has no part 'decodr'; its parts are .*decoder"
    ):
        model_options.recompute_activations(small_driver(), ['decodr'])


def assert_same_run(run, other):
    for kind in ('gradients', 'weights'):
        for name, value in other[kind].items():
            torch.testing.assert_close(run[kind][name], value, rtol=1e-4, atol=1e-5, msg=f'{kind} {name}')


def test_accumulated_gradients_equal_one_large_batch(tmp_path):
    """Each batch is divided by its own number of labels, so depth and segmentation are left out."""
    losses = [
        {'type': 'WaypointLoss', 'weight': 15.0},
        {'type': 'ActionLoss', 'weight': 15.0, 'future_weight': 3.75},
    ]
    options = dict(optim_wrapper=dict(accumulative_counts=2), losses=losses)
    parts = start_ranks(train_small, (tmp_path / 'a', 2, 1, options), 1, tmp_path / 'parts')
    whole = start_ranks(train_small, (tmp_path / 'b', 4, 1, dict(losses=losses)), 1, tmp_path / 'whole')
    parts, whole = parts.results()[0], whole.results()[0]
    assert (len(parts['losses']), len(whole['losses'])) == (NUM_SAMPLES // 2, NUM_SAMPLES // 4)
    assert_same_run(parts, whole)


def test_accumulated_gradients_are_the_same_on_two_processes(tmp_path):
    options = dict(optim_wrapper=dict(accumulative_counts=2))
    pair = start_ranks(train_small, (tmp_path / 'a', 1, 1, options), 2, tmp_path / 'pair')
    alone = start_ranks(train_small, (tmp_path / 'b', 2, 1, options), 1, tmp_path / 'alone')
    assert_same_run(pair.results()[0], alone.results()[0])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_mixed_precision_stays_near_single_precision(tmp_path, dtype):
    options = dict(optim_wrapper=dict(amp_dtype=dtype))
    mixed = start_ranks(train_small, (tmp_path / 'a', 4, 1, options), 1, tmp_path / 'mixed').results()[0]
    plain = start_ranks(train_small, (tmp_path / 'b', 4, 1), 1, tmp_path / 'plain').results()[0]
    assert not torch.equal(mixed['losses'][0]['loss'], plain['losses'][0]['loss'])
    assert mixed['losses'][-1]['loss'].item() == pytest.approx(plain['losses'][-1]['loss'].item(), rel=0.05)


def test_knobs_work_together_on_two_processes(tmp_path):
    options = dict(
        recompute=['img_encoder', 'decoder'], channels_last=True, ema_momentum=0.1, optim_wrapper=dict(
            amp_dtype='bfloat16', accumulative_counts=2
        ),
    )  # fmt: skip
    runs = start_ranks(train_small, (tmp_path / 'run', 2, 2, options, False), 2, tmp_path / 'ranks').results()
    for name, value in runs[0]['weights'].items():
        assert torch.equal(value, runs[1]['weights'][name]), name


@pytest.mark.parametrize('left_out', [None, 'Segmentation', 'ValueLoss', 'ActionLoss', 'Teacher|Refine'])
def test_what_no_loss_uses_is_frozen_and_all_else_gets_a_gradient(left_out):
    kept = [loss for loss in LOSSES if left_out is None or not re.search(left_out, loss['type'])]
    model, inputs, targets = small_driver(losses=kept).train(), inputs_for(), targets_for()
    for parameter in model.parameters():  # layers that start at zero would hide those behind them
        torch.nn.init.normal_(parameter, std=0.05)
    inputs['img'] = torch.randint(0, 256, inputs['img'].shape, dtype=torch.uint8)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    batch = {'inputs': inputs, 'targets': targets}
    frozen = model_options.freeze_unused_parameters(model, batch)
    assert model.training
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert bool(frozen) == (left_out is not None)

    losses = model(**model.data_preprocessor(batch, False), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == before - set(frozen)


@pytest.mark.parametrize(
    ('recompute', 'options', 'overlap'),
    [
        (['decoder'], True, True),
        (['decoder'], {'backend': 'eager'}, True),
        (['img_encoder', 'decoder'], {'modules': ['img_encoder.backbone']}, True),
        ('img_encoder.backbone', {'modules': 'img_encoder'}, True),
        (['decoder'], {'modules': ['img_encoder', 'decoder_of_another']}, False),
    ],
)
def test_recomputing_within_what_is_compiled_is_refused(recompute, options, overlap):
    if not overlap:
        return model_options.check_recompute_and_compile(recompute, options)
    with pytest.raises(ConfigError, match='overlaps'):
        model_options.check_recompute_and_compile(recompute, options)
