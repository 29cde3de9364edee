"""The teacher's masks and the teacher's network."""

import numpy as np
import pytest
import torch

from thinktwice.minitown import plain_ground
from thinktwice.minitown.expert.teacher_network import LAYERS, convolve, dense, teacher_network
from thinktwice.minitown.expert.teacher_view import Snapshot, TeacherView, ego_to_view
from thinktwice.minitown.world.classes import GREEN, RED, YELLOW

NO_ACTORS = np.zeros((0, 5))
NO_LINES = np.zeros((0, 2, 2))


def snapshot(vehicles=NO_ACTORS, pedestrians=NO_ACTORS, lines=NO_LINES, states=()):
    return Snapshot(np.array(vehicles, float).reshape(-1, 5), np.array(pedestrians, float).reshape(-1, 5),
                    np.array(lines, float).reshape(-1, 2, 2), np.array(states, int))  # fmt: skip


@pytest.mark.parametrize(
    ('ego', 'column_row'),
    [
        ((20, 10), (145.2396, 51.7292)),
        ((0, 0), (95.5, 151.2083)),
        ((30.4, -19.2), (0, 0)),
        ((-8, 19.2), (191, 191)),
    ],
)
def test_view_coordinates(ego, column_row):
    np.testing.assert_allclose(ego_to_view(np.array(ego, float)), column_row, atol=1e-4)


def test_a_car_ahead_on_the_right_is_drawn_above_and_right_in_any_heading():
    for yaw in (0.0, 1.1, -2.5):
        ego = (40.0, -30.0, yaw)
        forward, right = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        place = np.array(ego[:2]) + 20 * forward + 10 * right
        view = TeacherView(plain_ground())
        view.remember(snapshot([(*place, yaw, 2.2, 0.9)]))
        mask = view.masks(ego, np.array([ego[:2], place]))[6]
        rows, columns = np.nonzero(mask)
        assert rows.mean() == pytest.approx(51.7, abs=0.6)
        assert columns.mean() == pytest.approx(145.2, abs=0.6)
        assert np.ptp(rows) + 1 == pytest.approx(4.4 * 5, abs=2)
        assert np.ptp(columns) + 1 == pytest.approx(1.8 * 5, abs=2)


def test_history_masks_show_where_a_car_was():
    view = TeacherView(plain_ground())
    for tick in range(16):
        view.remember(snapshot([(tick, 0.0, 0.0, 2.0, 1.0)]))
    masks = view.masks((0.0, 0.0, 0.0), np.zeros((2, 2)))
    middles = [np.nonzero(mask)[0].mean() for mask in masks[3:7]]
    expected = [ego_to_view(np.array([tick, 0.0]))[1] for tick in (0, 5, 10, 15)]
    np.testing.assert_allclose(middles, expected, atol=0.6)


def test_a_short_history_is_clamped_to_its_oldest_entry():
    view = TeacherView(plain_ground())
    view.remember(snapshot([(5.0, 0.0, 0.0, 2.0, 1.0)]))
    masks = view.masks((0.0, 0.0, 0.0), np.zeros((2, 2)))
    for mask in masks[3:6]:
        np.testing.assert_array_equal(mask, masks[6])


def test_pedestrians_are_doubled_far_actors_left_out_and_lights_colored():
    lines = [[(10 + 3 * i, -2), (10 + 3 * i, 2)] for i in range(3)]
    view = TeacherView(plain_ground())
    pedestrians = [(6.0, 5.0, 0.0, 0.6, 0.6), (39.5, 0.0, 0.0, 0.3, 0.3)]
    view.remember(snapshot(pedestrians=pedestrians, lines=lines, states=(GREEN, YELLOW, RED)))
    masks = view.masks((0.0, 0.0, 0.0), np.zeros((2, 2)))
    rows, columns = np.nonzero(masks[10])
    assert np.ptp(rows) + 1 == pytest.approx(2.4 * 5, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(2.4 * 5, abs=2)
    assert set(np.unique(masks[14])) == {0, 80, 170, 255}
    assert masks[0].all()


def test_convolution_equals_the_framework():
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((5, 23, 19)), 0).astype(np.float32)
    for kernel, stride in ((5, 2), (3, 2), (3, 1)):
        weight = rng.standard_normal((5, kernel, kernel, 7)).astype(np.float32)
        bias = rng.standard_normal(7).astype(np.float32)
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(maps)[None],
            torch.from_numpy(weight).permute(3, 0, 1, 2),
            torch.from_numpy(bias),
            stride=stride,
        )
        result = convolve(maps, weight, bias, stride)
        np.testing.assert_allclose(result, expected.relu()[0].numpy(), rtol=1e-4, atol=1e-4)


def test_dense_equals_the_matrix_product():
    rng = np.random.default_rng(1)
    values, weight = (
        rng.standard_normal(30).astype(np.float32),
        rng.standard_normal((30, 9)).astype(np.float32),
    )
    bias = rng.standard_normal(9).astype(np.float32)
    expected = np.maximum(values @ weight + bias, 0)
    np.testing.assert_allclose(dense(values, weight, bias), expected, rtol=1e-4, atol=1e-5)


def test_maps_have_the_teachers_shapes_and_depend_on_scene_and_speed():
    network = teacher_network()
    masks = np.zeros((15, 192, 192), dtype=np.uint8)
    masks[0, :, 60:130] = 255
    levels, features = network.encode(masks, 5.0)
    shapes = [(8, 94, 94), (16, 45, 45), (32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2)]
    assert [level.shape for level in levels] == shapes
    assert len(LAYERS) == len(shapes)
    assert features.shape == (256,)
    for values in (*levels, features):
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert 0.01 < values.mean() < 10
    masks[6, 60:80, 90:100] = 255
    moved, moved_features = network.encode(masks, 5.0)
    assert all(not np.array_equal(one, two) for one, two in zip(levels, moved, strict=True))
    assert not np.array_equal(features, moved_features)
    assert not np.array_equal(network.encode(masks, 0.0)[1], moved_features)
