"""Lift-splat as a matrix product.

Lift-splat (Philion and Fidler, 2020) puts depth[d, p] * feature[c, p] of every
pixel p and depth bin d into the bird's-eye-view cell it falls into. Writing that
outer product takes hundreds of megabytes a sample. The sum over the bins can be
taken first: a routing matrix holds, for each cell and pixel, the depth weight that
the pixel sends there, and the map is the routing matrix times the features.
"""

import torch
from torch import Tensor


def splat(depth: Tensor, features: Tensor, cell_index: Tensor, num_cells: int) -> Tensor:
    """Pool image features into the cells of a grid. Differentiable in depth and features.

    Args:
        depth: (B, N, D, H, W) weight of every depth bin of every pixel.
        features: (B, N, C, H, W).
        cell_index: (B, N, D, H, W) int64, the cell each bin falls into, -1 (or any number that is
            no cell) to drop it.
        num_cells: V, cells of the grid.

    Returns:
        (B, C, V) sum over cameras, pixels and bins.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    B, N, D, H, W = depth.shape
    if cell_index.shape != depth.shape:
        raise ValueError(f'cell_index is {tuple(cell_index.shape)}, but depth is {tuple(depth.shape)}')
    if features.shape[:2] != (B, N) or features.shape[3:] != (H, W):
        raise ValueError(f'features {tuple(features.shape)} and depth {tuple(depth.shape)} do not fit')
    weights = depth.transpose(1, 2).reshape(B, D, N * H * W)
    cells = cell_index.transpose(1, 2).reshape(B, D, N * H * W)
    # one more row takes what falls outside
    cells = torch.where((cells >= 0) & (cells < num_cells), cells, num_cells)
    routing = weights.new_zeros(B, num_cells + 1, N * H * W).scatter_add(1, cells, weights)
    pixels = features.transpose(1, 2).reshape(B, features.shape[2], N * H * W)
    return torch.bmm(pixels, routing[:, :num_cells].transpose(1, 2))
