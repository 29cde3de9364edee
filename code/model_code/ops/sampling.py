"""Bilinear sampling as weighted sums of the rows of a table."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


def bilinear_rows(
    x: Float[Tensor, '*points'],
    y: Float[Tensor, '*points'],
    width: Shaped[Tensor, '*#points'],
    height: Shaped[Tensor, '*#points'],
) -> tuple[Int64[Tensor, '*points 4'], Float[Tensor, '*points 4']]:
    """Find the four pixels around each point and their weights in bilinear interpolation.

    Pixels outside the image are zeros. The weights of a point that is NaN are NaN.

    Args:
        x: Columns; integers are pixel centers.
        y: Rows.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Pixels, numbered row by row, and their weights.
    """
    columns, column_weights = _around(x, width)
    rows, row_weights = _around(y, height)
    pixels = rows.unsqueeze(-1) * width[..., None, None] + columns.unsqueeze(-2)
    weights = row_weights.unsqueeze(-1) * column_weights.unsqueeze(-2)
    return pixels.flatten(-2), weights.flatten(-2)


def _around(
    position: Float[Tensor, '*points'], size: Shaped[Tensor, '*#points']
) -> tuple[Int64[Tensor, '*points 2'], Float[Tensor, '*points 2']]:
    """The two pixels around each position along one axis, and their weights, zero outside the image."""
    # far positions, even infinite ones, give the zeros next to the image
    position = torch.where(position < -1, -1.0, position).minimum(size.to(position.dtype))
    first = position.floor()
    fraction = position - first
    pixels = torch.stack([first, first + 1], dim=-1)
    last = (size - 1).unsqueeze(-1)
    inside = (pixels >= 0) & (pixels <= last)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside
    return pixels.long().clamp(min=0).minimum(last), weights


def weighted_rows(
    table: Float[Tensor, 'rows C'], rows: Int64[Tensor, '*points R'], weights: Float[Tensor, '*points R']
) -> Float[Tensor, '*points C']:
    """Weighted sums of R rows each, without a copy of the single rows in memory."""
    size = rows.shape[-1]
    summed = F.embedding_bag(
        rows.reshape(-1, size), table, per_sample_weights=weights.reshape(-1, size), mode='sum'
    )
    return summed.view(*rows.shape[:-1], table.shape[1])
