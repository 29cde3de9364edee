"""Lift-splat as a matrix product.

Lift-splat (Philion and Fidler, 2020) adds depth[d, p] * feature[c, p] of each pixel p and depth bin d
to the BEV cell that it falls into. The outer product takes hundreds of megabytes per sample. Summing
over the bins first avoids it: a routing matrix holds the total depth weight of each pixel in each
cell, and the BEV map is the product of routing matrix and features.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def splat(
    depth: Float[Tensor, 'B N D h w'],
    features: Float[Tensor, 'B N C h w'],
    cell_index: Int64[Tensor, 'B N D h w'],
    num_cells: int,
) -> Float[Tensor, 'B C {num_cells}']:
    """Sum image features over cameras, pixels and bins into the cells of a grid.

    Args:
        depth: Weight of each depth bin of each pixel.
        features: Image features.
        cell_index: Cell that each bin falls into; any number outside [0, num_cells) drops it.
        num_cells: Cells of the grid.
    """
    B, N, D, H, W = depth.shape
    weights = depth.transpose(1, 2).reshape(B, D, N * H * W)
    cells = cell_index.transpose(1, 2).reshape(B, D, N * H * W)
    # an additional row collects what falls outside the grid
    cells = torch.where((cells >= 0) & (cells < num_cells), cells, num_cells)
    routing = weights.new_zeros(B, num_cells + 1, N * H * W).scatter_add(1, cells, weights)
    pixels = features.transpose(1, 2).reshape(B, features.shape[2], N * H * W)
    return torch.bmm(pixels, routing[:, :num_cells].transpose(1, 2))
