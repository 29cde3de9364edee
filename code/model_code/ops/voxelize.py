"""Voxelization of a batch of point clouds, and the operators of ``mmcv.ops.Voxelization`` built on it.

Signatures and outputs that are written in place are those of mmcv's compiled extension.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor


def voxelize_batch(
    clouds: Sequence[Float[Tensor, '_ C']],
    voxel_size: Float[Tensor, '3'],
    lower: Float[Tensor, '3'],
    grid_shape: Sequence[int],
    max_points: int,
    max_voxels: int,
) -> tuple[Float[Tensor, 'V {max_points} C'], Int64[Tensor, 'V 4'], Int64[Tensor, ' V']]:
    """Group the points of each cloud by voxel, with voxels in the order of their first points.

    Args:
        clouds: For each sample x, y, z in meters, then other channels. Points that are outside the grid
            or not finite are left out.
        voxel_size: Size along x, y, z, meters.
        lower: Lower corner of the grid: x, y, z in meters.
        grid_shape: Voxels along x, y, z; of all clouds together fewer than 2 ** 31.
        max_points: Points kept per voxel, the first in input order.
        max_voxels: Voxels kept per cloud, the first in input order.

    Returns:
        The points of each voxel, padded with zeros; its sample, z, y, x index; its number of points.
    """
    points = torch.cat(list(clouds))
    num_x, num_y, num_z = grid_shape
    (x, y, z), inside = _cells(points, voxel_size, lower, grid_shape)
    keys = z.mul_(num_y).add_(y).mul_(num_x).add_(x)  # in place: these are the largest tensors of the branch
    for b, part in enumerate(keys.split([len(cloud) for cloud in clouds])):
        part += b * num_z * num_y * num_x
    # the key of all points outside, and of an additional one that ends the last voxel
    outside = len(clouds) * num_z * num_y * num_x
    keys = F.pad(keys.masked_fill_(~inside, outside), (0, 1), value=outside)

    # stable, so that the points of a voxel stay in input order
    keys, order = keys.sort(stable=True)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = is_first.nonzero().squeeze(1)
    counts = starts.diff()
    by_first_point = order[starts[:-1]].argsort()
    starts, counts = starts[by_first_point], counts[by_first_point]

    cells = keys[starts].long()
    sample = cells // (num_z * num_y * num_x)
    rank = torch.arange(len(sample), device=keys.device) - torch.searchsorted(sample, sample)
    kept = (rank < max_voxels).nonzero().squeeze(1)  # rank among the voxels of the sample
    starts, counts = starts[kept], counts[kept].clamp(max=max_points)
    cells, sample = cells[kept], sample[kept]

    slots = torch.arange(max_points, device=keys.device)
    filled = slots < counts.unsqueeze(1)
    rows = order[torch.where(filled, starts.unsqueeze(1) + slots, starts.unsqueeze(1))]
    voxels = points.index_select(0, rows.flatten()).unflatten(0, rows.shape)
    voxels = voxels.masked_fill_(~filled.unsqueeze(-1), 0.0)
    z, y, x = cells // (num_y * num_x) % num_z, cells // num_x % num_y, cells % num_x
    return voxels, torch.stack([sample, z, y, x], dim=1), counts


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
        NDim: Number of spatial dimensions, 3.
    """
    cells, inside = _cells(points, *_grid(points, voxel_size, coors_range))
    coors.copy_(torch.where(inside, cells, -1).flip(0).t())


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
    """Group the points of one cloud by voxel, see :func:`voxelize_batch`.

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
        NDim: Number of spatial dimensions, 3.
        deterministic: Unused, part of mmcv's signature; the result is always deterministic.
    """
    grid = _grid(points, voxel_size, coors_range)
    found, indices, counts = voxelize_batch([points], *grid, max_points, max_voxels)
    voxels[: len(found)] = found
    coors[: len(found)] = indices[:, 1:].to(coors.dtype)
    num_points_per_voxel[: len(found)] = counts.to(num_points_per_voxel.dtype)
    voxel_num.fill_(len(found))


def _grid(
    points: Float[Tensor, 'P C'], voxel_size: Float[Tensor, '3'], coors_range: Float[Tensor, '6']
) -> tuple[Float[Tensor, '3'], Float[Tensor, '3'], list[int]]:
    """Voxel size and lower corner as the points are given, and the number of voxels along x, y, z."""
    lower, upper = coors_range.split(3)
    shape = ((upper - lower) / voxel_size).round().int().tolist()  # mmcv gives these tensors on the CPU
    return voxel_size.to(points), lower.to(points), shape


def _cells(
    points: Float[Tensor, 'P C'],
    voxel_size: Float[Tensor, '3'],
    lower: Float[Tensor, '3'],
    grid_shape: Sequence[int],
) -> tuple[Int32[Tensor, '3 P'], Bool[Tensor, ' P']]:
    """Compute the x, y, z index of each point, and whether it is in the grid."""
    # floor, not truncation, which would merge the cell below the range with the first one
    position = points[:, :3].t().clone(memory_format=torch.contiguous_format)
    position.sub_(lower.unsqueeze(1)).div_(voxel_size.unsqueeze(1)).floor_()
    inside = torch.ones_like(position[0], dtype=torch.bool)
    for axis, size in enumerate(grid_shape):
        inside &= (position[axis] >= 0) & (position[axis] < size)
    return position.int(), inside
