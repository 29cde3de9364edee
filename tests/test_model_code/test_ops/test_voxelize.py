import numpy as np
import pytest
import torch

import thinktwice.model_code  # noqa: F401  (puts the portable operators into place)
from thinktwice.model_code.ops import voxelize_batch

Voxelization = pytest.importorskip('mmcv.ops').Voxelization

RANGE = [-2.0, -1.0, -1.0, 2.0, 1.0, 1.0]
SIZE = [0.5, 0.25, 0.4]


def voxelize_by_hand(points: np.ndarray, max_points: int, max_voxels: int):
    """One point after the other, as the definition says."""
    minimum, size = np.float32(RANGE[:3]), np.float32(SIZE)
    shape = np.round((np.float32(RANGE[3:]) - minimum) / size)
    voxels: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        index = np.floor((point[:3] - minimum) / size)
        if (index < 0).any() or (index >= shape).any():
            continue
        key = tuple(int(value) for value in index[::-1])
        if key not in voxels:
            if len(voxels) >= max_voxels:
                continue
            voxels[key] = []
        if len(voxels[key]) < max_points:
            voxels[key].append(point)
    return voxels


@pytest.mark.parametrize(('max_points', 'max_voxels'), [(3, 1000), (1, 20), (10, 7), (2, 1)])
def test_voxels_are_those_of_one_point_after_the_other(max_points: int, max_voxels: int) -> None:
    points = torch.rand(600, 5) * torch.tensor([5.0, 2.6, 2.6, 1, 1]) - torch.tensor([2.5, 1.3, 1.3, 0, 0])
    voxels, coordinates, counts = Voxelization(SIZE, RANGE, max_points, max_voxels)(points)
    expected = voxelize_by_hand(points.numpy(), max_points, max_voxels)
    assert [tuple(row) for row in coordinates.tolist()] == list(expected)
    assert counts.tolist() == [len(kept) for kept in expected.values()]
    for voxel, kept in zip(voxels, expected.values(), strict=True):
        assert np.array_equal(voxel[: len(kept)].numpy(), np.stack(kept))
        assert not voxel[len(kept) :].any()


def test_the_cell_below_the_range_does_not_fold_into_the_first() -> None:
    points = torch.tensor([[-2.1, 0, 0], [-1.9, 0, 0], [2.0, 0, 0], [1.99, 0.99, 0.99]])
    _, coordinates, counts = Voxelization(SIZE, RANGE, 4, 10)(points)
    assert coordinates.tolist() == [[2, 4, 0], [4, 7, 7]]
    assert counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    'points', [torch.zeros(0, 4), torch.full((3, 4), 50.0), torch.full((3, 4), torch.nan)]
)
def test_no_point_in_range_gives_no_voxel(points: torch.Tensor) -> None:
    voxels, coordinates, counts = Voxelization(SIZE, RANGE, 4, 10)(points)
    assert voxels.shape == (0, 4, 4)
    assert coordinates.shape == (0, 3)
    assert counts.shape == (0,)


def test_dynamic_voxelization_gives_the_cell_of_each_point() -> None:
    points = torch.rand(300, 4) * 6 - 3
    coordinates = Voxelization(SIZE, RANGE, -1)(points)
    index = np.floor((points[:, :3].numpy() - np.float32(RANGE[:3])) / np.float32(SIZE)).astype(int)
    inside = ((index >= 0) & (index < [8, 8, 5])).all(1)
    expected = np.where(inside[:, None], index[:, ::-1], -1)
    assert np.array_equal(coordinates.numpy(), expected)
    assert 0 < inside.sum() < 300


def test_training_and_evaluation_have_caps_of_their_own() -> None:
    layer = Voxelization(SIZE, RANGE, 4, (5, 9))
    points = torch.rand(500, 4)
    assert len(layer.train()(points)[0]) == 5
    assert len(layer.eval()(points)[0]) == 9


def test_a_real_scan_fills_the_expected_number_of_voxels(shared_samples) -> None:
    points = torch.from_numpy(
        np.fromfile(shared_samples / 'lidar_kitti_000008.bin', np.float32).reshape(-1, 4).copy()
    )
    points[:, 2] += 1.73  # the sensor stands this high above the ground
    size = [0.0571428, 0.0571428, 0.2]
    voxels, coordinates, counts = Voxelization(size, [-8, -19.2, -4, 30.4, 19.2, 4.2], 10, 120000)(points)
    assert 10_500 < len(voxels) < 11_200
    assert len(torch.unique(coordinates, dim=0)) == len(voxels)
    assert int(coordinates.max(0).values[0]) < 41
    assert int(counts.max()) <= 10


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    clouds = [torch.rand(count, 5) * 6 - 3 for count in (400, 0, 300)]
    results = []
    for device in ('cpu', 'cuda'):
        size, lower = (torch.tensor(values, device=device) for values in (SIZE, RANGE[:3]))
        moved = [cloud.to(device) for cloud in clouds]
        results.append(voxelize_batch(moved, size, lower, (8, 8, 5), max_points=3, max_voxels=50))
    for cpu, cuda in zip(*results, strict=True):
        assert torch.equal(cuda.cpu(), cpu)
