"""Voxelization behind ``mmcv.ops.Voxelization``, in plain torch.

The signatures and the outputs written in place are those of mmcv's compiled
extension; P is the number of points, C their channels (x, y, z first, meters).
"""

import torch
from torch import Tensor


def dynamic_voxelize_forward(
    points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor, NDim: int = 3
) -> None:
    """Write the voxel of every point into ``coors``.

    Args:
        points: (P, C) float, x, y, z first, meters.
        voxel_size: (3,) cell size in x, y, z, meters.
        coors_range: (6,) x, y, z minimum, then maximum, meters.
        coors: (P, 3) int32, overwritten with z, y, x indices; -1 outside the range.
        NDim: number of axes.
    """
    coors.copy_(_voxel_indices(points, voxel_size, coors_range, NDim))


def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Group points by voxel: the first points of each voxel, voxels in first-come order.

    Args:
        points: (P, C) float, x, y, z first, meters.
        voxel_size: (3,) cell size in x, y, z, meters.
        coors_range: (6,) x, y, z minimum, then maximum, meters.
        voxels: (max_voxels, max_points, C) zeros, overwritten with the points of each voxel.
        coors: (max_voxels, 3) int32, overwritten with z, y, x indices.
        num_points_per_voxel: (max_voxels,) int32, overwritten with the points kept of each voxel.
        voxel_num: () int64, overwritten with the number of voxels.
        max_points: points kept of a voxel, the first in input order.
        max_voxels: voxels kept, the first in input order.
        NDim: number of axes.
        deterministic: accepted for the compiled signature; the result always is.
    """
    indices = _voxel_indices(points, voxel_size, coors_range, NDim)
    kept = (indices[:, 0] >= 0).nonzero().squeeze(1)
    if kept.numel() == 0:
        voxel_num.zero_()
        return
    indices = indices[kept]
    extent = indices.max(dim=0).values + 1
    keys = (indices[:, 0] * extent[1] + indices[:, 1]) * extent[2] + indices[:, 2]

    # Stable, so that points of one voxel stay in input order.
    sorted_keys, order = keys.sort(stable=True)
    _, group, counts = torch.unique_consecutive(sorted_keys, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=points.device) - starts[group]

    # Voxels are numbered by their first point.
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


def _voxel_indices(points: Tensor, voxel_size: Tensor, coors_range: Tensor, ndim: int) -> Tensor:
    """Return (P, 3) int64 z, y, x indices, all -1 for a point outside (or not finite)."""
    size = voxel_size.to(points)
    minimum, maximum = coors_range.to(points).split(ndim)
    # floor, not truncation: the cell below the range must not fold into the first one
    scaled = ((points[:, :ndim] - minimum) / size).floor()
    shape = ((maximum - minimum) / size).round()
    inside = ((scaled >= 0) & (scaled < shape)).all(dim=1, keepdim=True)
    return torch.where(inside, scaled, -1.0).long().flip(1)
