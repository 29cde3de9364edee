"""Deformable attention from look queries to the image tokens of their cameras."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.image_tokens import ImageTokens


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Zhu et al., 2021) without output projection and residual.

    The value projection is applied to the sampled tokens rather than to every token: sampling and
    projection are linear, so the result is the same at a fraction of the cost. The camera and level
    embeddings, constant over a level, are added after sampling for the same reason.

    Args:
        channels: Channels C of queries, tokens and output.
        num_levels: Pyramid levels.
        num_heads: Attention heads, a divisor of C.
        num_points: Sampling points per head and level.

    Raises:
        ValueError: If C is not a multiple of ``num_heads``.
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
        """Initialize to rings around the reference point and uniform weights, as Zhu et al. do."""
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
        queries: Float[Tensor, 'V C'],
        references: Float[Tensor, 'V 2'],
        cameras: Int64[Tensor, ' V'],
        tokens: ImageTokens,
        camera_embedding: Float[Tensor, 'N C'],
        level_embedding: Float[Tensor, 'levels C'],
    ) -> Float32[Tensor, 'V C']:
        """Attend from each query to the tokens of its camera.

        Args:
            queries: V queries of any cameras.
            references: x / W, y / H in the image.
            cameras: Camera of each query: sample * N + camera.
            tokens: Image tokens of all samples and cameras.
            camera_embedding: Added to every token of a camera.
            level_embedding: Added to every token of a level.
        """
        # positions in a large image need full precision, and this computation is small
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()
            locations, weights = self.sampling_locations(queries, references.float(), tokens)
            # both are (V, heads, levels, 4 * P)
            rows, corner_weights = tokens.corners(locations, weights, cameras.unsqueeze(-1))
            sampled = tokens.gather(
                rows.flatten(-2), corner_weights.flatten(-2).to(tokens.table.dtype)
            ).float()
            level_weights = corner_weights.sum(-1)  # reduced by sampling points outside the image
            total = level_weights.sum(-1, keepdim=True)  # (V, heads, 1)
            sampled = sampled + level_weights @ level_embedding.float()
            embedding = F.embedding(cameras % len(camera_embedding), camera_embedding.float())
            sampled = sampled + total * embedding.unsqueeze(1)
            return self._project(sampled, total)

    def sampling_locations(
        self, queries: Float[Tensor, 'V C'], references: Float[Tensor, 'V 2'], tokens: ImageTokens
    ) -> tuple[Float[Tensor, 'V heads levels P 2'], Float[Tensor, 'V heads levels P']]:
        """Sampling locations x / W, y / H and attention weights, which sum to 1 for each head.

        Args:
            queries: See :meth:`forward`.
            references: See :meth:`forward`.
            tokens: See :meth:`forward`.
        """
        shape = (len(queries), self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(shape).flatten(2).softmax(-1).view(shape)
        sizes = tokens.levels[:, :2].flip(-1).unsqueeze(1)  # width, height
        return references[:, None, None, None, :] + offsets / sizes, weights

    def _project(
        self, sampled: Float[Tensor, 'V heads C'], total: Float[Tensor, 'V heads 1']
    ) -> Float[Tensor, 'V C']:
        """Value projection; each head uses its own rows of the weight."""
        weight = self.value_proj.weight.unflatten(0, (self.num_heads, -1))  # (heads, C / heads, C)
        bias = self.value_proj.bias.unflatten(0, (self.num_heads, -1))
        values = torch.einsum('vhc,hdc->vhd', sampled, weight) + total * bias
        return values.flatten(-2)


class FeedForward(nn.Module):
    """Feed-forward block of a pre-norm transformer layer with its residual connection.

    Args:
        channels: Channels of input and output.
        hidden_channels: Channels of the hidden layer.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.w_1 = nn.Linear(channels, hidden_channels)
        self.w_2 = nn.Linear(hidden_channels, channels)

    def forward(self, inputs: Float[Tensor, '*batch C']) -> Float[Tensor, '*batch C']:
        """Apply the block."""
        return inputs + self.w_2(F.gelu(self.w_1(self.norm(inputs))))
