"""Image features of all cameras and levels in one table, sampled as weighted sums of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from thinktwice.model_code.ops import bilinear_rows, weighted_rows


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
        locations: Float[Tensor, '*queries levels P 2'],
        weights: Float[Tensor, '*queries levels P'],
        cameras: Int64[Tensor, '*#queries'],
    ) -> tuple[Int64[Tensor, '*queries levels 4*P'], Float[Tensor, '*queries levels 4*P']]:
        """Find the four rows around each location and their weights in bilinear interpolation.

        The convention is that of ``grid_sample`` with ``align_corners=False`` and zero padding, but
        with (0, 0) for the upper left and (1, 1) for the lower right corner of the map.

        Args:
            locations: x, y of P points per level.
            weights: Factor of each location.
            cameras: Camera of each query, numbered through the samples: sample * N + camera.

        Returns:
            Rows of the table and their weights.
        """
        height, width, _ = self.levels.unsqueeze(1).unbind(-1)  # (levels, 1)
        x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
        pixels, shares = bilinear_rows(x, y, width, height)
        shares = shares * weights.unsqueeze(-1)
        first_rows = cameras[..., None] * sum(h * w for h, w in self.level_shapes) + self.levels[:, 2]
        return (pixels + first_rows[..., None, None]).flatten(-2), shares.flatten(-2)

    def gather(
        self, rows: Int64[Tensor, '*queries R'], weights: Float[Tensor, '*queries R']
    ) -> Float[Tensor, '*queries C']:
        """Weighted sums of R rows each."""
        return weighted_rows(self.table, rows, weights)

    @cached_property
    def levels(self) -> Int64[Tensor, 'levels 3']:
        """Height and width of each level, and its first row among those of a camera."""
        areas = [h * w for h, w in self.level_shapes]
        table = [(*shape, sum(areas[:level])) for level, shape in enumerate(self.level_shapes)]
        return torch.tensor(table, device=self.table.device)
