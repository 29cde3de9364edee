"""Deformable attention from look queries to the image tokens of their camera."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Zhu et al., 2021) without output projection and residual.

    The value projection is applied to what the queries sampled rather than to every token: both
    are linear, so the result is the same, and of the tens of thousands of tokens of a camera only
    the sampled ones cost anything. The camera and level embeddings, constant over a level, are
    added after sampling for the same reason.

    Args:
        channels: width C of queries, tokens and result.
        num_levels: pyramid levels.
        num_heads: attention heads, a divisor of C.
        num_points: sampling points per head and level.

    Raises:
        ValueError: if C is not a multiple of num_heads.
    """

    def __init__(self, channels: int, num_levels: int, num_heads: int = 8, num_points: int = 8) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f'channels={channels} must be a multiple of num_heads={num_heads}')
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Start from rings around the reference point and equal weights, as the method's paper does."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto the unit square
        radii = torch.arange(1, self.num_points + 1)
        ring = directions[:, None, None, :] * radii[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.zeros_(self.value_proj.bias)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        tokens: ImageTokens,
        camera_embedding: Tensor,
        level_embedding: Tensor,
    ) -> Tensor:
        """Attend to the tokens of each query's own camera.

        Args:
            queries: (B, N, M, C).
            references: (B, N, M, 2) in widths and heights of the image.
            tokens: of the same B and N.
            camera_embedding: (N, C) added to every token of a camera.
            level_embedding: (levels, C) added to every token of a level.

        Returns:
            (B, N, M, C) float32.
        """
        # positions in a large image need full precision, and what is computed here is small
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()
            locations, weights = self._where_to_look(queries, references.float(), tokens)
            rows, shares = tokens.corners(locations, weights)  # (B, N, M, heads, levels, points * 4)
            sampled = tokens.gather(rows.flatten(-2), shares.flatten(-2).to(tokens.table.dtype)).float()
            covered = shares.sum(-1)  # below 1 where a sample lies outside the image
            total = covered.sum(-1, keepdim=True)  # (B, N, M, heads, 1)
            sampled = sampled + covered @ level_embedding.float()
            sampled = sampled + total * camera_embedding.float()[:, None, None, :]
            return self._project(sampled, total)

    def _where_to_look(
        self, queries: Tensor, references: Tensor, tokens: ImageTokens
    ) -> tuple[Tensor, Tensor]:
        """Locations (B, N, M, heads, levels, points, 2) and weights without the last axis."""
        shape = (*queries.shape[:3], self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:4], -1).softmax(-1).view(shape)
        sizes = offsets.new_tensor([(w, h) for h, w in tokens.level_shapes]).unsqueeze(1)
        return references[:, :, :, None, None, None, :] + offsets / sizes, weights

    def _project(self, sampled: Tensor, total: Tensor) -> Tensor:
        """Value projection, each head its own rows: (B, N, M, heads, C) to (B, N, M, C)."""
        weight = self.value_proj.weight.unflatten(0, (self.num_heads, -1))  # (heads, C / heads, C)
        bias = self.value_proj.bias.unflatten(0, (self.num_heads, -1))
        values = torch.einsum('bnmhc,hdc->bnmhd', sampled, weight) + total * bias
        return values.flatten(-2)


class FeedForward(nn.Module):
    """Residual two-layer network on normalized input.

    Args:
        channels: width of input and output.
        hidden_channels: width between the layers.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.w_1 = nn.Linear(channels, hidden_channels)
        self.w_2 = nn.Linear(hidden_channels, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., channels) to the same shape."""
        return inputs + self.w_2(F.gelu(self.w_1(self.norm(inputs))))
