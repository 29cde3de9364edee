"""The operators of ``mmcv.ops.Voxelization`` in plain PyTorch.

Signatures and outputs that are written in place are those of mmcv's compiled extension.
"""

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor


def dynamic_voxelize_forward(
    points: Float[Tensor, 'P C'],
    voxel_size: Float[Tensor, '3'],
    coors_range: Float[Tensor, '6'],
    coors: Int32[Tensor, 'P 3'],
    NDim: int = 3,
) -> None:
    """Write the voxel of every point into ``coors``.

    Args:
        points: x, y, z in meters, then other channels.
        voxel_size: Size along x, y, z, meters.
        coors_range: Minimum of x, y, z, then maximum, meters.
        coors: Overwritten with z, y, x indices; -1 outside the range.
        NDim: Number of spatial dimensions.
    """
    coors.copy_(_voxel_indices(points, voxel_size, coors_range, NDim))


def hard_voxelize_forward(
    points: Float[Tensor, 'P C'],
    voxel_size: Float[Tensor, '3'],
    coors_range: Float[Tensor, '6'],
    voxels: Float[Tensor, '{max_voxels} {max_points} C'],
    coors: Int32[Tensor, '{max_voxels} 3'],
    num_points_per_voxel: Int32[Tensor, ' {max_voxels}'],
    voxel_num: Int64[Tensor, ''],
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Group points by voxel, with voxels in the order of their first points.

    Args:
        points: x, y, z in meters, then other channels.
        voxel_size: Size along x, y, z, meters.
        coors_range: Minimum of x, y, z, then maximum, meters.
        voxels: Zeros, overwritten with the points of each voxel.
        coors: Overwritten with z, y, x indices.
        num_points_per_voxel: Overwritten with the number of points kept per voxel.
        voxel_num: Overwritten with the number of voxels.
        max_points: Points kept per voxel, the first in input order.
        max_voxels: Voxels kept, the first in input order.
        NDim: Number of spatial dimensions.
        deterministic: Unused, part of mmcv's signature; the result is always deterministic.
    """
    indices = _voxel_indices(points, voxel_size, coors_range, NDim)
    kept = (indices[:, 0] >= 0).nonzero().squeeze(1)
    if kept.numel() == 0:
        voxel_num.zero_()
        return
    indices = indices[kept]
    extent = indices.max(dim=0).values + 1
    keys = (indices[:, 0] * extent[1] + indices[:, 1]) * extent[2] + indices[:, 2]

    # stable, so that the points of a voxel stay in input order
    sorted_keys, order = keys.sort(stable=True)
    _, group, counts = torch.unique_consecutive(sorted_keys, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=points.device) - starts[group]

    # voxels are numbered by their first point
    by_first_point = order[starts].argsort()
    number = torch.empty_like(by_first_point)
    number[by_first_point] = torch.arange(len(by_first_point), device=points.device)

    count = min(len(number), max_voxels)
    voxel = number[group]
    stored = (rank < max_points) & (voxel < count)
    voxels[voxel[stored], rank[stored]] = points[kept[order[stored]]]
    coors[:count] = indices[order[starts[by_first_point[:count]]]].to(coors.dtype)
    num_points_per_voxel[:count] = counts[by_first_point[:count]].clamp(max=max_points).to(torch.int32)
    voxel_num.fill_(count)


def _voxel_indices(
    points: Float[Tensor, 'P C'], voxel_size: Float[Tensor, '3'], coors_range: Float[Tensor, '6'], ndim: int
) -> Int64[Tensor, 'P 3']:
    """Compute z, y, x indices, all -1 for points that are outside the range or not finite."""
    size = voxel_size.to(points)
    minimum, maximum = coors_range.to(points).split(ndim)
    # floor, not truncation, which would merge the cell below the range with the first one
    scaled = ((points[:, :ndim] - minimum) / size).floor()
    shape = ((maximum - minimum) / size).round()
    inside = ((scaled >= 0) & (scaled < shape)).all(dim=1, keepdim=True)
    return torch.where(inside, scaled, -1.0).long().flip(1)
