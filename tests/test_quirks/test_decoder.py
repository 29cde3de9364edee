"""Rows M3, M4, M5, M8, M19, M20 of docs/reference_quirks.md."""

import pytest
import torch
import torch.nn.functional as F
from helpers.deformable_attention import multi_scale_deformable_attention
from helpers.small_decoder import PARTS, SIZES, arguments, decoder_inputs

from thinktwice.model_code.dense_heads import ThinkTwiceDecoder
from thinktwice.model_code.projection import project_to_cameras
from thinktwice.release_2023.model import ReferenceThinkTwiceDecoder

both = pytest.mark.parametrize('corrected', [True, False], ids=['corrected', '2023'])


def decoder(corrected):
    """The small decoder, of the main line or of 2023; its weights are random, the attention's too."""
    parts = {name: dict(part) for name, part in PARTS.items()} | {
        'prediction_module': {'type': 'PredictionModule'}
    }
    if not corrected:
        for name in ('camera_look', 'lidar_look', 'prediction_module', 'refine_layer'):
            parts[name]['type'] = f'Reference{parts[name]["type"]}'
    net = (ThinkTwiceDecoder if corrected else ReferenceThinkTwiceDecoder)(**SIZES, **parts)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    return net.eval()


def first(inputs):
    """The first sample of the decoder's inputs, alone."""
    alone = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    return {**alone, 'fpn': [level[:1] for level in inputs['fpn']]}


@both
def test_plan_depends_on_what_the_lidar_saw(corrected):  # M3
    net, inputs = decoder(corrected), decoder_inputs(1)
    before = net(**arguments(inputs))['pred_waypoints']
    after = net(**arguments({**inputs, 'lidar_map': inputs['lidar_map'] + 1}))['pred_waypoints']
    assert (not torch.equal(before, after)) == corrected


@both
def test_look_at_the_lidar_is_trained(corrected):  # M3
    net = decoder(corrected)
    net(**arguments(decoder_inputs(2)))['pred_waypoints'].sum().backward()
    gradients = [p.grad for name, p in net.named_parameters() if '.lidar_look.' in name]
    assert gradients
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients) == corrected


@both
def test_sample_alone_equals_the_sample_in_a_batch(corrected):  # M4
    net, inputs = decoder(corrected), decoder_inputs(2)
    with torch.no_grad():
        together, alone = (
            net(**arguments(inputs))['pred_waypoints'][:1],
            net(**arguments(first(inputs)))['pred_waypoints'],
        )
    assert torch.allclose(together, alone, atol=1e-5) == corrected


@both
def test_number_of_queries_of_a_batch_mate_does_not_matter(corrected):  # M4: padding has no part
    net, inputs = decoder(corrected), decoder_inputs(2)
    look = net.layers[0].camera_look
    scene = context_of(net, inputs)
    waypoints, actions = torch.rand(2, 4, 2) * 5, torch.rand(2, 4, 4)
    far = waypoints.clone()
    far[1] = 500.0  # the mate's waypoints leave most cameras
    with torch.no_grad():
        near_mate, far_mate = (look(w, actions, inputs['bev_vector'], scene)[0] for w in (waypoints, far))
    assert torch.allclose(near_mate, far_mate, atol=1e-5) == corrected


def context_of(net, inputs):
    return net.build_context(**arguments(inputs))


@pytest.mark.parametrize('batch', [1, 2, 3])
def test_camera_look_of_2023_equals_its_rule_written_out(batch):  # M4
    net, inputs = decoder(corrected=False), decoder_inputs(batch)
    look, scene = net.layers[0].camera_look, context_of(net, inputs)
    waypoints, actions = torch.rand(batch, 4, 2) * torch.tensor([20.0, 4.0]), torch.rand(batch, 4, 4)
    with torch.no_grad():
        found = look(waypoints, actions, inputs['bev_vector'], scene)
        passes = [torch.cat([x, x.flip(0)]) for x in (waypoints, actions, inputs['bev_vector'])]
        assert torch.allclose(look(*passes, scene.repeat(2))[:batch], found, rtol=1e-4, atol=1e-5)
        levels = [p(f.flatten(0, 1)) for p, f in zip(net.level_projections, inputs['fpn'], strict=True)]
        expected = written_out_look(net, look, scene, waypoints, actions, inputs['bev_vector'], levels)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def written_out_look(net, look, scene, waypoints, actions, vector, levels):
    """The camera look of 2023, step by step on padded rows, values projected before sampling."""
    batch, cameras = len(waypoints), net.num_cameras
    points = look.look_points(waypoints)
    queries = look.build_queries(points, actions, vector, scene)
    locations, visible = project_to_cameras(
        points, scene.images.ego2img, scene.images.ida_mats, scene.images.image_size
    )
    longest = int(visible.sum(-1).max())
    rows = torch.zeros(batch * cameras, longest, look.query_linear[0].normalized_shape[0])
    references = torch.zeros(batch * cameras, longest, 2)
    for b in range(batch):
        for n in range(cameras):
            places = locations[b, n, visible[b, n]]
            samples = [
                F.grid_sample(level[b * cameras + n][None], 2 * places[None, None] - 1, align_corners=False)
                for level in levels
            ]
            samples = torch.stack([sample[0, :, 0].T for sample in samples], -1).flatten(1)
            rows[b * cameras + n, : len(places)] = torch.cat([queries[b, visible[b, n]], samples], -1)
            references[b * cameras + n, : len(places)] = places
    attended = look.ffn(attend(look, look.query_linear(rows), references, scene, levels, cameras))
    attended[:, :batch] = 0
    pooled = (attended / batch).sum(1).view(batch, -1)
    return look.output_proj(pooled)[:, None].expand(-1, 4, -1)


def attend(look, queries, references, scene, levels, cameras):
    attention = look.deformable_attention
    heads, points, num_levels = attention.num_heads, attention.num_points, len(levels)
    values = []
    for index, level in enumerate(levels):
        camera = scene.images.camera_embedding.repeat(len(level) // cameras, 1)[:, :, None, None]
        tokens = level + camera + scene.images.level_embedding[index][:, None, None]
        value = attention.value_proj(tokens.movedim(1, -1)).movedim(-1, 1)
        values.append(value.unflatten(1, (heads, -1)))
    shape = (*queries.shape[:2], heads, num_levels, points)
    offsets = attention.sampling_offsets(queries).view(*shape, 2)
    sizes = torch.tensor([level.shape[:1:-1] for level in levels]).float()[:, None]
    weights = attention.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
    return multi_scale_deformable_attention(
        values, references[:, :, None, None, None] + offsets / sizes, weights
    )


@both
def test_residual_block_of_the_future_has_an_effect(corrected):  # M5
    net, inputs = decoder(corrected), decoder_inputs(1)
    before = net(**arguments(inputs))['refine_future_bev_map']
    with torch.no_grad():
        for layer in net.layers:
            layer.prediction_module.ffn[-1].bias += 1
    changed = not torch.equal(before, net(**arguments(inputs))['refine_future_bev_map'])
    assert changed == corrected


@both
def test_levels_can_be_told_apart_from_the_start(corrected):  # M8
    net = ThinkTwiceDecoder(**SIZES, **PARTS) if corrected else decoder(corrected)
    net.init_weights()
    assert bool(net.level_embedding.any()) == corrected


@both
def test_attention_starts_from_rings_and_equal_weights(corrected):  # M19
    net = ThinkTwiceDecoder(**SIZES, **PARTS) if corrected else decoder(corrected)
    net.init_weights()
    attention = net.layers[0].camera_look.deformable_attention
    assert bool(attention.sampling_offsets.bias.any()) == corrected
    assert (not attention.attention_weights.weight.any()) == corrected


@both
def test_returned_future_maps_keep_layers_and_steps_apart(corrected):  # M20
    net, inputs = decoder(corrected), decoder_inputs(1)
    kept = []
    for layer in net.layers:
        layer.prediction_module.register_forward_hook(lambda module, args, output: kept.append(output))
    returned = net(**arguments(inputs))['refine_future_bev_map']
    stacked = torch.stack(kept, 1)
    assert returned.shape == stacked.shape == (1, 2, 4, 3, 9, 9)
    assert torch.equal(returned, stacked) == corrected
    # the same maps, in another order
    assert torch.equal(
        returned.sum((3, 4, 5)).flatten().sort()[0], stacked.sum((3, 4, 5)).flatten().sort()[0]
    )
