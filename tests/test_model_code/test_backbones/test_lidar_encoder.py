import math

import pytest
import torch
from helpers.small_encoders import lidar_encoder, parameters_without_gradient, point_cloud


@pytest.fixture(scope='module')
def encoder():
    """A LiDAR encoder in evaluation mode, with statistics of its own."""
    torch.manual_seed(0)
    module = lidar_encoder()
    for norm in module.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.05)
    return module.eval()


def encode(encoder, clouds):
    with torch.no_grad():
        return encoder(clouds)


def brightest_cell(encoder, points):
    """Row and column that a cluster of points changes most, against the empty map."""
    change = (encode(encoder, [points]) - encode(encoder, [points[:0]])).abs().sum(dim=(0, 1))
    return divmod(int(change.argmax()), change.shape[1])


def test_map_covers_the_grid_at_half_the_voxels(encoder):
    out = encode(encoder, [point_cloud(300), point_cloud(50)])
    assert out.shape == (2, 16, 20, 18)  # rows along x (40 voxels), columns along y (36 voxels)


@pytest.mark.parametrize(
    ('center', 'cell'), [((14.0, 0.0), (2, 9)), ((0.0, -7.0), (16, 2)), ((0.0, 7.0), (16, 16))]
)
def test_clusters_ahead_left_and_right_light_up_where_the_teacher_has_them(encoder, center, cell):
    points = torch.rand(60, 5) * 0.9
    points[:, 0] += center[0] - 0.45
    points[:, 1] += center[1] - 0.45
    row, column = brightest_cell(encoder, points)
    assert abs(row - cell[0]) <= 2
    assert abs(column - cell[1]) <= 2


def test_a_cloud_alone_equals_the_cloud_in_a_batch(encoder):
    # points above the sparse grid (z > 2.5 m) once lit up cells of the next sample in the batch
    clouds = [point_cloud(300, top=7.9), point_cloud(200, top=7.9), point_cloud(100)]
    together = encode(encoder, clouds)
    for b, cloud in enumerate(clouds):
        assert torch.allclose(encode(encoder, [cloud])[0], together[b], atol=1e-5)


def test_points_above_the_sparse_grid_and_outside_of_the_range_do_not_count(encoder):
    cloud = point_cloud(200)
    high = cloud[:50].clone()
    high[:, 2] = torch.linspace(2.5001, 7.9, 50)
    outside = cloud[:50].clone()
    outside[:, 0] += 40
    assert torch.equal(encode(encoder, [torch.cat((cloud, high, outside))]), encode(encoder, [cloud]))


def test_an_empty_cloud_in_the_batch_keeps_its_place(encoder):
    cloud = point_cloud(200)
    out = encode(encoder, [cloud, cloud[:0]])
    assert out.shape[0] == 2
    assert torch.allclose(out[0], encode(encoder, [cloud])[0], atol=1e-5)
    assert torch.allclose(out[1], encode(encoder, [cloud[:0]])[0], atol=1e-5)


@pytest.mark.parametrize('sizes', [(0,), (0, 0), (1,), (2, 0)])
def test_training_survives_clouds_of_no_or_few_points(sizes):
    encoder = lidar_encoder().train()
    out = encoder([point_cloud(size) for size in sizes])
    out.sum().backward()
    assert out.isfinite().all()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_one_training_step_reaches_every_parameter():
    encoder = lidar_encoder().train()
    encoder([point_cloud(400), point_cloud(300)]).square().mean().backward()
    assert parameters_without_gradient(encoder) == []


def test_voxels_hold_the_mean_of_their_first_points_and_know_their_sample(encoder):
    cloud = torch.tensor(
        [[0.1, 0.1, 0.1, 0.2, 0.0], [0.3, 0.3, 0.3, 0.4, -1.0], [5.0, 5.0, 0.0, 1.0, 0.0]]
        + [[0.2, 0.2, 0.2, 0.6, 0.0], [0.2, 0.2, 0.2, 9.0, 0.0]]  # the fourth in the voxel is left out
    )
    features, coordinates = encoder.encode_voxels([cloud[:0], cloud])
    assert coordinates.tolist() == [[1, 4, 18, 8], [1, 4, 28, 18]]
    assert features[0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4, -1 / 3], abs=1e-6)


def test_voxel_limits_differ_in_training_and_evaluation():
    encoder = lidar_encoder()
    cloud = point_cloud(4000)
    assert len(encoder.train().encode_voxels([cloud])[0]) == 400
    assert len(encoder.eval().encode_voxels([cloud])[0]) == 600


def test_sparse_kernels_start_within_one_over_root_of_the_fan_in():
    encoder = lidar_encoder()
    encoder.init_weights()
    weight = encoder.middle_encoder.encoder_layers.encoder_layer2[0].conv1.weight
    bound = 1 / math.sqrt(8 * 27)
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.95 * bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_disagreeing_grids_are_named():
    voxelize = {
        'voxel_size': (0.5, 0.5, 0.5),
        'point_cloud_range': (-4.0, -9.0, -2.0, 20.0, 9.0, 8.0),
        'max_num_points': 3,
        'max_voxels': (400, 600),
    }
    with pytest.raises(ValueError, match='sparse_shape'):
        lidar_encoder(voxelize=voxelize)
