import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.deformable_attention import multi_scale_deformable_attention
from helpers.small_decoder import IMAGE_SIZE, pyramid, rig

from thinktwice.model_code.dense_heads import CameraLook, ImageContext, LookContext
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

C, E, CM, CV = 8, 4, 5, 10
HEADS, POINTS = 2, 3
HEIGHTS = (0.0, 1.0, 2.0)


def camera_look(cameras=4, levels=4, steps=4, heights=HEIGHTS, fixed_points=((5, 0), (0, -5)), **options):
    look = CameraLook(
        num_cameras=cameras,
        num_levels=levels,
        channels=C,
        embed_channels=E,
        measurement_channels=CM,
        vector_channels=CV,
        num_steps=steps,
        heights=heights,
        fixed_points=fixed_points,
        num_heads=HEADS,
        num_points=POINTS,
        hidden_channels=16,
        out_channels=6,
        **options,
    )
    # as after some training: offsets and weights depend on the query
    for layer in (look.deformable_attention.sampling_offsets, look.deformable_attention.attention_weights):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return look


def context(batch=2, cameras=4, levels=4, steps=4, fixed=2):
    ego2img, ida_mats = rig(batch, cameras)
    measurement = torch.randn(batch, CM)
    views = ImageContext(
        tokens=ImageTokens.from_levels(pyramid(batch, cameras, levels, C)),
        ego2img=ego2img,
        ida_mats=ida_mats,
        image_size=IMAGE_SIZE,
        static_embedding=torch.randn(fixed, E),
        camera_embedding=torch.randn(cameras, C),
        level_embedding=torch.randn(levels, C),
    )
    return LookContext(measurement, torch.randn(steps, E), views)


def plan(batch=2, steps=4):
    """Waypoints ahead and to the side, the last one of sample 0 behind; actions; BEV vector."""
    waypoints = torch.rand(batch, steps, 2) * torch.tensor([12.0, 10.0]) + torch.tensor([4.0, -5.0])
    waypoints[0, -1] = torch.tensor([-8.0, 1.0])
    return waypoints, torch.rand(batch, steps, 4), torch.randn(batch, CV)


def images(tokens, b, n):
    """Maps (C, h, w) of one sample's camera, read back from the table."""
    B, N = tokens.batch_shape
    rows = tokens.table.view(B, N, -1, C)[b, n].split([h * w for h, w in tokens.level_shapes])
    return [part.T.reshape(C, h, w) for part, (h, w) in zip(rows, tokens.level_shapes, strict=True)]


def look_at_one_camera(look, scene, queries, points, b, n):
    """Loop over the queries of one sample and camera; the mean feature, as the method describes it."""
    maps = images(scene.images.tokens, b, n)
    H, W = scene.images.image_size
    features = []
    for query, point in zip(queries, points, strict=True):
        u, v, depth, _ = (scene.images.ego2img[b, n].double().numpy() @ [*point.tolist(), 1]).tolist()
        if depth <= 1e-5:
            continue
        u, v, *_ = scene.images.ida_mats[b, n].double().numpy() @ [u / depth, v / depth, depth, 1]
        if not (0 < u < W and 0 < v < H):
            continue
        reference = torch.tensor([u / W, v / H], dtype=torch.float32)
        grid = (2 * reference - 1).view(1, 1, 1, 2)
        samples = [F.grid_sample(image[None], grid, align_corners=False).flatten() for image in maps]
        row = torch.cat([query, torch.stack(samples, dim=1).flatten()])  # channel-major, level-minor
        features.append(attend_once(look, look.query_linear(row), reference, maps, scene, n))
    return torch.stack(features).mean(0) if features else torch.zeros(C)


def attend_once(look, query, reference, maps, scene, n):
    """Attention of one query over maps that are embedded and projected first, then the block after it."""
    attention = look.deformable_attention
    values = []
    for level, image in enumerate(maps):
        tokens = (
            image + (scene.images.camera_embedding[n] + scene.images.level_embedding[level])[:, None, None]
        )
        value = attention.value_proj(tokens.permute(1, 2, 0)).permute(2, 0, 1)
        values.append(value.view(1, HEADS, C // HEADS, *image.shape[1:]))
    offsets = attention.sampling_offsets(query).view(1, 1, HEADS, len(maps), POINTS, 2)
    locations = (
        reference + offsets / torch.tensor([(image.shape[2], image.shape[1]) for image in maps])[:, None]
    )
    weights = attention.attention_weights(query).view(1, 1, HEADS, -1).softmax(-1).view(locations.shape[:-1])
    return look.ffn(multi_scale_deformable_attention(values, locations, weights).flatten())


def build_queries(look, scene, waypoints, actions, vector, b):
    """Queries and positions of one sample, by loops over points and heights."""
    queries, points = [], []
    steps = len(waypoints[b])
    for p, position in enumerate([*waypoints[b].tolist(), (5.0, 0.0), (0.0, -5.0)]):
        for height in HEIGHTS:
            action = actions[b, p] if p < steps else torch.zeros(4)
            embedding = scene.temporal_embedding[p] if p < steps else scene.images.static_embedding[p - steps]
            points.append(torch.tensor([*position, height]))
            queries.append(torch.cat([action, points[-1], embedding, scene.measurement[b], vector[b]]))
    return queries, points


@pytest.mark.parametrize(('cameras', 'levels', 'steps'), [(4, 4, 4), (3, 2, 3), (1, 1, 6)])
def test_equals_loops_over_samples_cameras_and_queries(cameras, levels, steps) -> None:
    look = camera_look(cameras, levels, steps)
    scene = context(2, cameras, levels, steps)
    waypoints, actions, vector = plan(2, steps)
    output = look(waypoints, actions, vector, scene)
    for b in range(2):
        queries, points = build_queries(look, scene, waypoints, actions, vector, b)
        per_camera = [look_at_one_camera(look, scene, queries, points, b, n) for n in range(cameras)]
        expected = look.output_proj(torch.cat(per_camera)).expand(steps, -1)
        torch.testing.assert_close(output[b], expected, atol=1e-5, rtol=1e-4)


def test_a_sample_looks_the_same_alone_and_among_others() -> None:
    look, scene = camera_look(), context(batch=3)
    waypoints, actions, vector = plan(batch=3)
    waypoints[1:] += torch.tensor([0.0, 30.0])  # the others see another number of queries
    together = look(waypoints, actions, vector, scene)
    tokens = scene.images.tokens
    own = len(tokens.table) // 3
    views = dataclasses.replace(
        scene.images,
        tokens=ImageTokens(tokens.table[:own], tokens.level_shapes, (1, 4)),
        ego2img=scene.images.ego2img[:1],
        ida_mats=scene.images.ida_mats[:1],
    )
    alone = dataclasses.replace(scene, measurement=scene.measurement[:1], images=views)
    torch.testing.assert_close(
        look(waypoints[:1], actions[:1], vector[:1], alone)[0], together[0], atol=1e-5, rtol=1e-5
    )


def test_two_passes_look_at_the_samples_as_each_does_alone() -> None:
    look, scene = camera_look(), context()
    first, second = plan(), plan()
    both = [torch.cat(parts) for parts in zip(first, second, strict=True)]
    expected = torch.cat([look(*first, scene), look(*second, scene)])
    torch.testing.assert_close(look(*both, scene.repeat(2)), expected, atol=1e-5, rtol=1e-5)


def test_queries_that_no_camera_sees_have_no_part_in_the_result() -> None:
    look, scene = camera_look(cameras=1, fixed_points=()), context(cameras=1, fixed=0)
    waypoints, actions, vector = plan()
    waypoints[:, 2] = torch.tensor([-8.0, 1.0])  # behind the only camera
    waypoints.requires_grad_()
    actions.requires_grad_()
    before = look(waypoints, actions, vector, scene)
    before.sum().backward()
    assert not waypoints.grad[:, 2].any() and not actions.grad[:, 2].any()
    assert actions.grad[1, 0].any()  # a visible query does

    moved, other_actions = waypoints.detach().clone(), actions.detach().clone()
    moved[:, 2] = torch.tensor([-20.0, -3.0])
    other_actions[:, 2] += 1
    torch.testing.assert_close(look(moved, other_actions, vector, scene), before)


def test_nothing_in_view_is_finite_and_still_trains() -> None:
    look, scene = camera_look(cameras=1, fixed_points=()), context(cameras=1, fixed=0)
    waypoints, actions, vector = plan()
    output = look(waypoints * 0 - 30, actions, vector, scene)
    torch.testing.assert_close(output, look.output_proj(torch.zeros(1, C)).expand(2, 4, -1))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in look.parameters())


def test_pooling_per_step_uses_the_own_waypoint_and_the_fixed_points() -> None:
    look = camera_look(pool_per_step=True)
    scene = context()
    waypoints, actions, vector = plan()
    actions.requires_grad_()
    output = look(waypoints, actions, vector, scene)
    assert output.shape == (2, 4, 6)
    output[:, 1].sum().backward()
    reached = actions.grad.abs().sum(-1) > 0
    assert reached[:, 1].all() and not reached[:, [0, 2, 3]].any()


def test_pooling_by_default_gives_all_steps_the_same_look() -> None:
    output = camera_look()(*plan(), context())
    assert (output == output[:, :1]).all()


def test_the_paper_has_120_queries_of_519_and_rows_of_1543_values() -> None:
    with torch.device('meta'):
        look = CameraLook(4, 4, 256, 128, 128, 256, 4, range(-4, 11), ((5, 0), (0, -5), (0, 5), (-5, 0)))
    assert look.queries_of_step.shape == (1, 120)
    assert look.query_linear[0].normalized_shape == (1543,)
    assert look.look_points(torch.zeros(1, 4, 2, device='meta')).shape == (1, 120, 3)
    assert math.prod(look.deformable_attention.sampling_offsets.weight.shape) == 256 * 512


def test_points_come_waypoint_by_waypoint_with_the_heights_inside() -> None:
    points = camera_look().look_points(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]]))
    expected = [(x, y, z) for x, y in [(1, 2), (3, 4), (5, 6), (7, 8), (5, 0), (0, -5)] for z in HEIGHTS]
    np.testing.assert_array_equal(points[0].numpy(), np.array(expected))
