"""Rows M14 to M18 (Q1, Q2, Q15, Q31) of docs/reference_quirks.md."""

import numpy as np
import pytest
import torch
from helpers.small_encoders import lidar_encoder, point_cloud

from thinktwice.datasets.pipelines import LoadPoints
from thinktwice.geometry import poses
from thinktwice.release_2023.data import ReferenceLoadPoints

both = pytest.mark.parametrize('corrected', [True, False], ids=['corrected', '2023'])
STRAIGHT = (np.array([0.0, 0.0, 0.0]), np.array([3.0, 0.0, 0.0]))
TURN = (
    np.array([100.0, 50.0, 2.0943951023931953 - np.pi / 2]),
    np.array([102.0, 51.5, 2.2689280275926285 - np.pi / 2]),
)


def step(corrected):
    return LoadPoints() if corrected else ReferenceLoadPoints()


def encoder(corrected):
    return lidar_encoder(type='LidarEncoder' if corrected else 'ReferenceLidarEncoder').eval()


@both
@pytest.mark.parametrize('intensity', [1.0, 0.5])
@pytest.mark.parametrize('drive', [STRAIGHT, TURN], ids=['straight', 'turn'])
def test_static_point_aligns_across_frames(corrected, drive, intensity):  # M14, M15
    history, key = drive
    world = np.array([110.0, 60.0, 1.0])
    seen = np.append(poses.world_to_ego(world, history), intensity)
    aligned = step(corrected).align(seen[None], history, key)[0]
    assert np.allclose(aligned, poses.world_to_ego(world, key), atol=1e-6) == corrected


@pytest.mark.parametrize(
    ('drive', 'point', 'intensity', 'published'),
    [
        (STRAIGHT, (10, 0, 1), 1.0, (10, 3, 1)),
        (STRAIGHT, (10, 0, 1), 0.5, (10, 1.5, 1)),
        (TURN, (13.6602540378, 3.6602540378, 1), 1.0, (14.656228, 3.667210, 1)),
        (TURN, (13.6602540378, 3.6602540378, 1), 0.5, (14.3723, 2.4499, 1)),
    ],
)
def test_points_of_2023_lie_at_the_published_places(drive, point, intensity, published):
    sweep = np.array([[*point, intensity]])
    assert np.allclose(ReferenceLoadPoints().align(sweep, *drive)[0], published, atol=1e-4)


@both
def test_cloud_alone_equals_the_cloud_beside_a_longer_one(corrected):  # M17
    torch.manual_seed(0)
    net, short, long = encoder(corrected), point_cloud(50), point_cloud(300)
    with torch.no_grad():
        alone, together = net([short])[0], net([short, long])[0]
    assert torch.allclose(alone, together, atol=1e-5) == corrected


def test_padding_of_2023_is_one_voxel_at_the_origin_of_the_shorter_clouds():
    net, short, long = encoder(False), point_cloud(50), point_cloud(300)
    _, coordinates = net.encode_voxels([short, long])
    _, expected = encoder(True).encode_voxels([torch.cat([short, torch.zeros(1, 5)]), long])
    assert torch.equal(coordinates, expected)


@both
def test_map_is_oriented_as_the_teachers(corrected):  # M7
    net = encoder(corrected)
    index_map = torch.zeros(1, 1, 18, 20)  # y, x
    index_map[0, 0, 17, 19] = 1  # far ahead, far right
    row, column = divmod(int(net.orient(index_map).argmax()), 18)
    assert row == 0
    assert column == (17 if corrected else 0)
