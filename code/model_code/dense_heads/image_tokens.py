"""Image features of all cameras and levels in one table, sampled by weighted sums of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """One row per pixel of every pyramid level of every camera of every sample.

    Attributes:
        table: (B * N * S, C), per sample and camera the levels one after the other, each row-major.
        level_shapes: (h, w) of each level, their areas sum to S.
        batch_shape: (B, N).
    """

    table: Tensor
    level_shapes: tuple[tuple[int, int], ...]
    batch_shape: tuple[int, int]

    @classmethod
    def from_levels(cls, levels: Sequence[Tensor]) -> 'ImageTokens':
        """Build the table from one (B, N, C, h, w) map per level."""
        B, N, C = levels[0].shape[:3]
        shapes = tuple((int(level.shape[-2]), int(level.shape[-1])) for level in levels)
        rows = torch.cat([level.flatten(3).transpose(2, 3) for level in levels], dim=2)  # (B, N, S, C)
        return cls(rows.reshape(-1, C), shapes, (int(B), int(N)))

    def corners(self, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The four rows around each location and their share in its bilinear value.

        A location counts in widths and heights of the map, (0, 0) is its upper left corner and
        the first pixel's center is half a pixel inside. Beyond the border the map is zero.

        Args:
            locations: (B, N, ..., levels, P, 2) x, y.
            weights: (B, N, ..., levels, P) factor of each location.

        Returns:
            Rows of the table, int64, and their weights, both (B, N, ..., levels, P * 4).
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

    def gather(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of rows, (..., C), over the last axis of rows and weights, both (..., R).

        The rows are summed without first being copied out, so the memory is that of the result.
        """
        size = rows.shape[-1]
        summed = F.embedding_bag(
            rows.reshape(-1, size), self.table, per_sample_weights=weights.reshape(-1, size), mode='sum'
        )
        return summed.view(*rows.shape[:-1], -1)

    def _first_rows(self, rows_like: Tensor) -> Tensor:
        """Row at which each (sample, camera, level) begins, broadcastable to (B, N, ..., levels, P, 4)."""
        B, N = self.batch_shape
        areas = [h * w for h, w in self.level_shapes]
        device = rows_like.device
        cameras = torch.arange(B * N, device=device).view(B, N, *[1] * (rows_like.ndim - 3)) * sum(areas)
        level_starts = [sum(areas[:level]) for level in range(len(areas))]
        return cameras + torch.tensor(level_starts, device=device).view(-1, 1, 1)
