import math

import pytest
import torch
from helpers.small_decoder import (
    PARTS,
    SIZES,
    arguments,
    decoder_inputs,
    small_decoder,
    teacher,
    without_gradient,
)

from thinktwice.errors import ConfigError
from thinktwice.model_code.dense_heads import TeacherInputs, ThinkTwiceDecoder
from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.thinktwice_decoder import inverse_softplus
from thinktwice.release_2023.checkpoint.names import official_entries

SECOND_VALUES = [
    {},
    {'num_cameras': 3, 'num_levels': 2},
    {'num_steps': 3, 'num_refine_layers': 1},
    {'num_steps': 6, 'bev_size': (7, 12)},
    {'heights': (0.0, 1.5), 'fixed_points': ()},
    {'num_steps': 1},
    {'num_refine_layers': 0},
]


def build(options, batch=2):
    options = dict(options)
    bev_size = options.pop('bev_size', (9, 9))
    return small_decoder(**options), decoder_inputs(batch, bev_size, **options)


@pytest.mark.parametrize('options', SECOND_VALUES)
def test_output_shapes_follow_the_sizes(options) -> None:
    decoder, inputs = build(options)
    L, K = options.get('num_refine_layers', 2), options.get('num_steps', 4)
    X, Y = options.get('bev_size', (9, 9))
    outputs = decoder(**arguments(inputs), teacher=teacher(2, K))
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    expected = {
        'pred_speed': (2, 1),
        'pred_value_traj': (2, 1),
        'pred_value_ctrl': (2, 1),
        'pred_features_traj': (2, 9),
        'pred_features_ctrl': (2, 9),
        'pred_waypoints': (2, L + 1, K, 2),
        'pred_alpha': (2, L + 1, K, 2),
        'pred_beta': (2, L + 1, K, 2),
        'refine_bev_vector': (2, L, 10),
        'refine_bev_map': (2, L, 3, X, Y),
        'refine_future_bev_map': (2, L, K, 3, X, Y),
    }
    if L:
        expected |= {
            'teacher_waypoint_offset': (2, L, K, 2),
            'teacher_control_offset': (2, L, K, 4),
            'teacher_refine_bev_vector': (2, L, 10),
            'teacher_refine_bev_map': (2, L, 3, X, Y),
            'teacher_future_bev_map': (2, L, K, 3, X, Y),
        }
    assert shapes == expected
    assert all(value.isfinite().all() for value in outputs.values())
    assert outputs['pred_alpha'].min() >= 1e-3 and outputs['pred_beta'].min() >= 1e-3


def test_the_paper_s_decoder_is_the_official_one_without_the_network_that_nothing_calls() -> None:
    with torch.device('meta'):
        decoder = ThinkTwiceDecoder()
    official = {name: shape for name, shape in official_entries().items() if name.startswith('decoder.')}
    unused = sum(math.prod(shape) for name, shape in official.items() if 'look_feature_MLP' in name)
    assert unused == 5 * 1_114_752
    total = sum(math.prod(shape) for shape in official.values())
    assert sum(parameter.numel() for parameter in decoder.parameters()) == total - unused


@pytest.mark.parametrize('options', SECOND_VALUES)
def test_every_parameter_is_trained_once_the_attention_has_left_its_start(options) -> None:
    """At the start the attention ignores its queries by design, so one step comes first."""
    decoder, inputs = build(options)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = decoder(**arguments(inputs), teacher=teacher(2, options.get('num_steps', 4)))
        sum(value.square().mean() for value in outputs.values() if value.numel()).backward()
        assert all(parameter.grad is not None for parameter in decoder.parameters())
        optimizer.step()
    assert not without_gradient(decoder)


def sample_of(inputs, b):
    """The inputs of one sample of a batch."""
    one = {name: value[b : b + 1] for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    return {**inputs, **one, 'fpn': [level[b : b + 1] for level in inputs['fpn']]}


def test_a_sample_is_predicted_the_same_alone_and_in_a_batch() -> None:
    decoder, inputs = build({}, batch=3)
    decoder.eval()
    together = decoder(**arguments(inputs))
    for b in range(3):
        alone = decoder(**arguments(sample_of(inputs, b)))
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][b], atol=1e-5, rtol=1e-5)


def test_the_teacher_does_not_touch_the_predictions() -> None:
    decoder, inputs = build({})
    plain = decoder(**arguments(inputs))
    noise = TeacherInputs(*(torch.rand(2, 4, 2) * 9 for _ in range(3)))
    outputs, others = (decoder(**arguments(inputs), teacher=given) for given in (teacher(), noise))
    for name, value in plain.items():
        assert (outputs[name] == others[name]).all()
        # products of a batch of twice the size may be rounded differently
        torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=1e-5)


def test_the_look_at_the_lidar_reaches_the_plan() -> None:
    decoder, inputs = build({'num_refine_layers': 1})
    inputs['lidar_map'].requires_grad_()
    decoder(**arguments(inputs))['pred_waypoints'].sum().backward()
    assert inputs['lidar_map'].grad.abs().sum() > 0


def test_each_stage_s_error_trains_its_own_layer_alone() -> None:
    decoder, inputs = build({})
    decoder(**arguments(inputs))['pred_waypoints'][:, 2].sum().backward()
    assert decoder.layers[1].traj_offset_module[0].weight.grad.abs().sum() > 0
    assert not decoder.layers[0].traj_offset_module[0].weight.grad.any()
    assert not decoder.coarse_head.output_traj[0].weight.grad.any()
    # but the scene that layer 0 has updated carries the gradient on
    assert decoder.layers[0].bev_map_update[0].weight.grad.abs().sum() > 0


def test_stages_add_up_offsets() -> None:
    decoder, inputs = build({})
    for layer in decoder.layers:
        torch.nn.init.zeros_(layer.traj_offset_module[-1].weight)
        torch.nn.init.constant_(layer.traj_offset_module[-1].bias, 0.5)
    waypoints = decoder(**arguments(inputs))['pred_waypoints']
    torch.testing.assert_close(waypoints[:, 1:] - waypoints[:, :-1], torch.full((2, 2, 4, 2), 0.5))


def test_future_maps_keep_layers_and_steps_apart() -> None:
    decoder, inputs = build({})
    for number, layer in enumerate(decoder.layers):
        decoder_block = layer.prediction_module.ffn[-1]
        torch.nn.init.zeros_(decoder_block.weight)
        torch.nn.init.constant_(decoder_block.bias, 10.0**number)
    future = decoder(**arguments(inputs))['refine_future_bev_map']
    assert (future[:, 0] == 1).all() and (future[:, 1] == 11).all()


def test_teacher_targets_of_zero_stay_finite() -> None:
    decoder, inputs = build({})
    given = teacher()
    given.alpha[0, 0] = 0
    given.beta[:, 2] = -1
    outputs = decoder(**arguments(inputs), teacher=given)
    assert all(value.isfinite().all() for value in outputs.values())


def test_teacher_pass_sees_the_expert_s_plan_in_every_layer() -> None:
    decoder, inputs = build({})
    seen = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments))
    given = teacher()
    decoder(**arguments(inputs), teacher=given)
    for waypoints, controls, *_ in seen:
        assert (waypoints[2:] == given.waypoints).all()
        torch.testing.assert_close(
            torch.nn.functional.softplus(controls[2:]), torch.cat([given.alpha, given.beta], -1)
        )
    assert seen[0][2].future_bev_map is None and seen[1][2].future_bev_map is not None


def test_inverse_softplus_of_small_and_large_values() -> None:
    values = torch.tensor([1e-3, 0.5, 1.0, 30.0, 200.0], dtype=torch.double)
    expected = values.clone()
    expected[:3] = torch.log(torch.exp(values[:3]) - 1)
    torch.testing.assert_close(inverse_softplus(values), expected)


def test_initialization_is_xavier_except_for_the_attention_and_the_embeddings() -> None:
    decoder = ThinkTwiceDecoder(num_refine_layers=1)
    decoder.init_weights()
    weight = decoder.coarse_head.policy_head[2].weight  # 512 to 512
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert not decoder.coarse_head.policy_head[2].bias.any()
    for name in ('temporal_embedding', 'static_embedding', 'camera_embedding', 'level_embedding'):
        assert getattr(decoder, name).std().item() == pytest.approx(0.02, rel=0.15)
    (attention,) = (module for module in decoder.modules() if isinstance(module, DeformableAttention))
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    assert attention.sampling_offsets.bias.view(8, 4, 8, 2)[0, :, 7].tolist() == [[8.0, 0.0]] * 4


def test_an_untrained_layer_leaves_the_coarse_plan_as_it_is() -> None:
    decoder, inputs = build({})
    decoder.init_weights()
    outputs = decoder(**arguments(inputs))
    for key in ('pred_waypoints', 'pred_alpha', 'pred_beta'):
        coarse, *refined = outputs[key].unbind(dim=1)
        assert refined and all(stage.equal(coarse) for stage in refined)


def test_steps_pooled_apart_are_an_option() -> None:
    decoder, inputs = build({'camera_look': {**PARTS['camera_look'], 'pool_per_step': True}})
    assert decoder(**arguments(inputs))['pred_waypoints'].isfinite().all()


def test_another_number_of_cameras_or_levels_than_configured_is_refused() -> None:
    for cameras in (3, 5):
        with pytest.raises(ConfigError, match=rf'num_cameras={cameras}, but .* 4 cameras.*cameras=\['):
            small_decoder(num_cameras=cameras)(**arguments(decoder_inputs()))
    with pytest.raises(ConfigError, match='num_levels=4, but img_encoder gives 2 levels'):
        small_decoder()(**arguments(decoder_inputs(num_levels=2)))


def test_fewer_refine_layers_than_none_are_refused() -> None:
    with pytest.raises(ConfigError, match='num_refine_layers=-1'):
        small_decoder(num_refine_layers=-1)


def test_a_teacher_of_another_length_is_refused() -> None:
    decoder, inputs = build({})
    with pytest.raises(ConfigError, match='targets hold 6 future steps.*num_steps=4'):
        decoder(**arguments(inputs), teacher=teacher(num_steps=6))


def test_weights_named_by_init_cfg_come_on_top(tmp_path) -> None:
    donor = small_decoder()
    torch.save(donor.state_dict(), tmp_path / 'decoder.pth')
    pretrained = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'decoder.pth')}
    decoder = ThinkTwiceDecoder(**SIZES, **PARTS, init_cfg=pretrained)
    decoder.init_weights()
    for loaded, expected in zip(decoder.parameters(), donor.parameters(), strict=True):
        assert torch.equal(loaded, expected)


@pytest.mark.cuda
def test_runs_on_cuda() -> None:
    decoder, inputs = build({})
    moved = {name: value.cuda() if hasattr(value, 'cuda') else value for name, value in inputs.items()}
    moved['fpn'] = [level.cuda() for level in inputs['fpn']]
    expected = decoder(**arguments(inputs))['pred_waypoints']
    inputs['flatten_head'].cuda()
    torch.testing.assert_close(
        decoder.cuda()(**arguments(moved))['pred_waypoints'].cpu(), expected, atol=1e-3, rtol=1e-3
    )
