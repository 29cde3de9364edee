"""Image features of all cameras and levels in one table, sampled as weighted sums of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """Table with one row per pixel of each pyramid level, camera and sample.

    Attributes:
        table: The levels of the first camera of the first sample, each flattened row by row, then
            those of its second camera, and so on.
        level_shapes: (h, w) of each level.
        batch_shape: (B, N).
    """

    table: Float[Tensor, 'rows C']
    level_shapes: tuple[tuple[int, int], ...]
    batch_shape: tuple[int, int]

    @classmethod
    def from_levels(cls, levels: Sequence[Float[Tensor, 'B N C _ _']]) -> 'ImageTokens':
        """Build the table from the feature map of each level."""
        B, N, C = levels[0].shape[:3]
        shapes = tuple((int(level.shape[-2]), int(level.shape[-1])) for level in levels)
        rows = torch.cat([level.flatten(3).transpose(2, 3) for level in levels], dim=2)  # (B, N, pixels, C)
        return cls(rows.reshape(-1, C), shapes, (int(B), int(N)))

    def corners(
        self,
        locations: Float[Tensor, 'B N *queries levels P 2'],
        weights: Float[Tensor, 'B N *queries levels P'],
    ) -> tuple[Int64[Tensor, 'B N *queries levels 4*P'], Float[Tensor, 'B N *queries levels 4*P']]:
        """Find the four rows around each location and their weights in bilinear interpolation.

        The convention is that of ``grid_sample`` with ``align_corners=False`` and zero padding, but
        with (0, 0) for the upper left and (1, 1) for the lower right corner of the map.

        Args:
            locations: x, y of P points per level.
            weights: Factor of each location.

        Returns:
            Rows of the table and their weights.
        """
        sizes = locations.new_tensor([(w, h) for h, w in self.level_shapes]).unsqueeze(1)  # (levels, 1, 2)
        pixels = locations * sizes - 0.5
        first = pixels.floor()
        fraction = pixels - first
        steps = locations.new_tensor([(0, 0), (1, 0), (0, 1), (1, 1)])
        corner = first.unsqueeze(-2) + steps  # (..., levels, P, 4, 2)
        share = torch.where(steps > 0, fraction.unsqueeze(-2), 1 - fraction.unsqueeze(-2)).prod(-1)
        last = (sizes - 1).unsqueeze(1)
        inside = ((corner >= 0) & (corner <= last)).all(-1)
        share = share * weights.unsqueeze(-1) * inside
        column_row = torch.minimum(corner.long().clamp(min=0), last.long())
        widths = torch.tensor([w for _, w in self.level_shapes], device=locations.device).view(-1, 1, 1)
        rows = column_row[..., 1] * widths + column_row[..., 0] + self._first_rows(rows_like=column_row)
        return rows.flatten(-2), share.flatten(-2)

    def gather(
        self, rows: Int64[Tensor, '*queries R'], weights: Float[Tensor, '*queries R']
    ) -> Float[Tensor, '*queries C']:
        """Weighted sums of R rows each, without a copy of the single rows in memory."""
        size = rows.shape[-1]
        summed = F.embedding_bag(
            rows.reshape(-1, size), self.table, per_sample_weights=weights.reshape(-1, size), mode='sum'
        )
        return summed.view(*rows.shape[:-1], -1)

    def _first_rows(
        self, rows_like: Int64[Tensor, 'B N *queries levels P 4 2']
    ) -> Int64[Tensor, 'B N *_ levels 1 1']:
        """First row of each sample, camera and level, broadcastable over queries and points."""
        B, N = self.batch_shape
        areas = [h * w for h, w in self.level_shapes]
        device = rows_like.device
        cameras = torch.arange(B * N, device=device).view(B, N, *[1] * (rows_like.ndim - 3)) * sum(areas)
        level_starts = [sum(areas[:level]) for level in range(len(areas))]
        return cameras + torch.tensor(level_starts, device=device).view(-1, 1, 1)
