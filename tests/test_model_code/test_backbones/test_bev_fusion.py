import copy

import pytest
import torch
from helpers.small_encoders import parameters_without_gradient

from thinktwice.errors import ConfigError
from thinktwice.model_code.backbones import BEVFlattenHead, BEVFusion, MeasurementEncoder
from thinktwice.model_code.backbones.squeeze_excite import SqueezeExciteBlock


@pytest.mark.parametrize(
    ('camera_size', 'lidar_size', 'strides'),
    [
        ((21, 21), (84, 84), (2, 2)),
        ((12, 9), (24, 18), (2,)),
        ((12, 9), (20, 18), (2,)),
        ((6, 8), (6, 8), (1, 1)),
    ],
)
def test_fusion_takes_any_ratio_of_the_maps(camera_size, lidar_size, strides):
    fusion = BEVFusion(camera_channels=8, lidar_channels=6, out_channels=4, lidar_strides=strides)
    out = fusion(torch.randn(2, 8, *camera_size), torch.randn(2, 6, *lidar_size))
    assert out.shape == (2, 4, *camera_size)
    out.square().mean().backward()
    assert parameters_without_gradient(fusion) == []


def test_both_sensors_reach_the_cell_where_they_saw_something():
    fusion = BEVFusion(camera_channels=8, lidar_channels=6, out_channels=4).eval()
    fusion.init_weights()
    camera, lidar = torch.randn(1, 8, 21, 21), torch.randn(1, 6, 84, 84)
    reference = fusion(camera, lidar)
    seen_by_lidar = lidar.clone()
    seen_by_lidar[:, :, 40:44, 8:12] += 10  # the four by four LiDAR cells of BEV cell (10, 2)
    seen_by_camera = camera.clone()
    seen_by_camera[:, :, 10, 2] += 10
    for changed in (fusion(camera, seen_by_lidar), fusion(seen_by_camera, lidar)):
        change = (changed - reference).abs().sum(dim=(0, 1))
        row, column = divmod(int(change.argmax()), 21)
        assert abs(row - 10) <= 1
        assert abs(column - 2) <= 1


def test_squeeze_excite_block_is_the_written_out_formula():
    block = SqueezeExciteBlock(3).eval()
    x = torch.randn(2, 3, 5, 4)
    y = torch.relu(block.bn1(block.conv1(x)))
    y = torch.relu(block.bn2(block.conv2(y)))
    pooled = 0.5 * y.flatten(2).mean(-1) + 0.5 * y.flatten(2).max(-1).values
    hidden = torch.relu(pooled @ block.gate.fc1.weight[:, :, 0, 0].T + block.gate.fc1.bias)
    gate = torch.sigmoid(hidden @ block.gate.fc2.weight[:, :, 0, 0].T + block.gate.fc2.bias)
    assert torch.allclose(block(x), torch.relu(y * gate[:, :, None, None] + x), atol=1e-6)


def test_flatten_head_has_the_teachers_levels_at_the_papers_size():
    vector, levels = BEVFlattenHead(bev_size=(21, 21))(torch.randn(2, 32, 21, 21))
    assert vector.shape == (2, 256)
    assert [tuple(level.shape[1:]) for level in levels] == [(64, 10, 10), (128, 4, 4), (256, 2, 2)]


@pytest.mark.parametrize('batch', [1, 3])
def test_flatten_head_of_another_size_trains_on_any_batch(batch):
    head = BEVFlattenHead((12, 9), 4, (6, 8), (2, 2), hidden_channels=10, out_channels=7)
    vector, levels = head(torch.randn(batch, 4, 12, 9))
    assert vector.shape == (batch, 7)
    assert [tuple(level.shape[1:]) for level in levels] == [(6, 5, 4), (8, 2, 1)]
    # the shared head serves predicted maps too, before the backward pass
    predicted, _ = head(torch.randn(4 * batch, 4, 12, 9))
    torch.nn.init.constant_(head.vector_head[3].bias, 0.5)
    (vector.square().mean() + predicted.square().mean()).backward()
    assert parameters_without_gradient(head) == []


def test_flatten_head_keeps_the_names_of_batch_norm_statistics():
    state = BEVFlattenHead((21, 21)).state_dict()
    assert {'vector_head.2.running_mean', 'vector_head.2.running_var'} <= set(state)
    assert state['vector_head.0.weight'].shape == (512, 1024)


def test_flatten_head_without_batch_statistics_treats_each_map_alone():
    head = BEVFlattenHead((21, 21), norm='group').train()
    maps = torch.randn(3, 32, 21, 21)
    together, _ = head(maps)
    assert torch.allclose(head(maps[1:2])[0], together[1:2], atol=1e-5)
    batch_head = BEVFlattenHead((21, 21)).train()
    assert not torch.allclose(batch_head(maps[:2])[0], batch_head(maps)[0][:2], atol=1e-5)
    with pytest.raises(ValueError, match='norm'):
        BEVFlattenHead((21, 21), norm='layer')


def test_predicted_maps_have_statistics_of_their_own_where_asked():
    for separate in (False, True):
        head = BEVFlattenHead((12, 9), 4, (6, 8), (2, 2), separate_norms=separate).train()
        before = {name: value.clone() for name, value in head.named_buffers()}
        head(torch.randn(3, 4, 12, 9), passes=1)
        changed = {name for name, value in head.named_buffers() if not torch.equal(value, before[name])}
        observed = {name for name in before if 'predicted' not in name}
        assert changed == (set(before) - observed if separate else observed)
        assert bool(set(before) - observed) == separate


@pytest.mark.parametrize('separate', [False, True])
def test_maps_of_two_passes_are_normalized_as_if_one_pass_ran_after_the_other(separate):
    head = BEVFlattenHead((12, 9), 4, (6, 8), (2, 2), separate_norms=separate).train()
    in_turn = copy.deepcopy(head)
    maps = torch.randn(6, 4, 12, 9)
    vectors, levels = head(maps, passes=2)
    parts = [in_turn(part, passes=1) for part in maps.split(3)]
    torch.testing.assert_close(vectors, torch.cat([vector for vector, _ in parts]))
    torch.testing.assert_close(levels[-1], torch.cat([smaller[-1] for _, smaller in parts]))
    for name, value in head.named_buffers():
        torch.testing.assert_close(value, in_turn.get_buffer(name))
    assert not torch.allclose(head(maps, passes=1)[0], vectors, atol=1e-3)


def test_a_norm_before_the_relu_keeps_the_fused_map_alive():
    camera, lidar = torch.rand(4, 8, 12, 9), torch.rand(4, 6, 12, 9)
    alive = []
    for reduce_norm in (False, True):
        fusion = BEVFusion(8, 6, 4, (1,), reduce_norm=reduce_norm).train()
        torch.nn.init.constant_(fusion.reduce_conv.bias, -100.0)  # as if training had shrunk the map
        seen = []
        fusion.refine_block.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        fusion(camera, lidar)
        alive.append(bool((seen[0] > 0).any()))
    assert alive == [False, True]


def test_flatten_head_names_what_does_not_fit():
    with pytest.raises(ValueError, match='too small'):
        BEVFlattenHead((6, 6))
    with pytest.raises(ValueError, match='level_strides'):
        BEVFlattenHead((21, 21), level_channels=(8, 8))


@pytest.mark.parametrize(('num_commands', 'speed_scale'), [(6, 12.0), (4, 30.0)])
def test_measurement_encoder_sees_scaled_speed_goal_and_one_hot_command(num_commands, speed_scale):
    encoder = MeasurementEncoder(num_commands, speed_scale, hidden_channels=5, out_channels=7)
    seen = []
    encoder.layers.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    out = encoder(torch.tensor([6.0]), torch.tensor([[20.0, -3.0]]), torch.tensor([3]))
    assert out.shape == (1, 7)
    one_hot = [0.0] * num_commands
    one_hot[3] = 1.0
    assert seen[0][0].tolist() == pytest.approx([6.0 / speed_scale, 20.0, -3.0, *one_hot])


@pytest.mark.parametrize('speed_scale', [0.0, -12.0, float('nan')])
def test_a_unit_of_speed_that_is_not_positive_is_refused(speed_scale):
    with pytest.raises(ConfigError, match=f'speed_scale={speed_scale}'):
        MeasurementEncoder(speed_scale=speed_scale)


def test_weights_start_from_a_xavier_normal_and_biases_from_zero():
    fusion = BEVFusion(camera_channels=32, lidar_channels=16, out_channels=8)
    fusion.init_weights()
    weight = fusion.fusion_conv[0].weight
    assert weight.std().item() == pytest.approx((2 / (9 * (64 + 32))) ** 0.5, rel=0.05)
    assert fusion.reduce_conv.bias.abs().sum() == 0


def test_the_speed_is_dropped_in_training_only():
    encoder = MeasurementEncoder(speed_dropout=0.5, target_scale=10.0)
    seen = []
    encoder.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inputs = torch.full((4000,), 6.0), torch.full((4000, 2), 30.0), torch.zeros(4000, dtype=torch.long)
    encoder.train()(*inputs)
    encoder.eval()(*inputs)
    assert set(seen[0][:, 0].tolist()) == {0.0, 0.5}
    assert 0.45 < (seen[0][:, 0] == 0).float().mean() < 0.55
    assert (seen[1][:, 0] == 0.5).all()
    assert (seen[1][:, 1:3] == 3.0).all()
