"""Look back at the images around the planned positions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention, FeedForward
from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, LookContext, LookModule
from thinktwice.model_code.dense_heads.projection import project_to_cameras
from thinktwice.registry import MODELS

FFN_RATIO = 4  # hidden width of the feed-forward block over its input's


@MODELS.register_module()
class CameraLook(LookModule):
    """Image features around the plan, by queries projected into the cameras (the paper's look module).

    Each waypoint and each of F fixed points around the car makes one query per height: Q queries,
    point-major. A query takes part in every camera that sees it.

    Args:
        num_cameras: cameras N.
        num_levels: pyramid levels of the tokens.
        channels: width C of the tokens.
        embed_channels: width E of the temporal and static embeddings.
        measurement_channels: width Cm of the encoded measurements.
        vector_channels: width Cv of the BEV vector.
        num_steps: future steps K.
        heights: meters above the ground at which each point looks.
        fixed_points: (x, y) ego meters.
        num_heads: attention heads.
        num_points: sampling points per head and level.
        hidden_channels: width of the hidden layers.
        out_channels: width of the result.
        pool_per_step: pool for each step its own waypoint's queries and the fixed points', instead
            of one look vector from all queries that is repeated for all steps.
    """

    heights: Tensor
    fixed_points: Tensor
    queries_of_step: Tensor

    def __init__(
        self,
        num_cameras: int,
        num_levels: int,
        channels: int,
        embed_channels: int,
        measurement_channels: int,
        vector_channels: int,
        num_steps: int,
        heights: Sequence[float],
        fixed_points: Sequence[Sequence[float]],
        num_heads: int = 8,
        num_points: int = 8,
        hidden_channels: int = 512,
        out_channels: int = 256,
        pool_per_step: bool = False,
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.out_channels = out_channels
        self.register_buffer('heights', torch.tensor(heights, dtype=torch.float32), persistent=False)
        fixed = torch.tensor(fixed_points, dtype=torch.float32).view(-1, 2)
        self.register_buffer('fixed_points', fixed, persistent=False)
        groups = _query_groups(num_steps, len(fixed), len(heights), pool_per_step)
        self.register_buffer('queries_of_step', groups, persistent=False)

        query_channels = CONTROL_DIM + 3 + embed_channels + measurement_channels + vector_channels
        row_channels = query_channels + channels * num_levels
        self.query_linear = nn.Sequential(
            nn.LayerNorm(row_channels),
            nn.Linear(row_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, channels),
            nn.GELU(),
        )
        self.deformable_attention = DeformableAttention(channels, num_levels, num_heads, num_points)
        self.ffn = FeedForward(channels, FFN_RATIO * channels)
        self.output_proj = nn.Sequential(
            nn.LayerNorm(num_cameras * channels),
            nn.Linear(num_cameras * channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, out_channels),
        )

    def forward(self, waypoints: Tensor, actions: Tensor, bev_vector: Tensor, context: LookContext) -> Tensor:
        """Look at the cameras.

        Args:
            waypoints: (B, K, 2) ego meters.
            actions: (B, K, 4) Beta parameters, positive.
            bev_vector: (B, Cv).
            context: the batch's sensors and embeddings.

        Returns:
            (B, K, out_channels).
        """
        points = self.look_points(waypoints)  # (B, Q, 3)
        queries = self.build_queries(points, actions, bev_vector, context)
        locations, visible = project_to_cameras(points, context.ego2img, context.ida_mats, context.image_size)
        index, used = pack_visible(visible)  # (B, N, M)
        references = locations.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, 2))
        references = references.masked_fill(~used.unsqueeze(-1), 0.0)
        rows = torch.cat([select_queries(queries, index), self.sample_at(references, context)], dim=-1)
        rows = rows.masked_fill(~used.unsqueeze(-1), 0.0)
        features = self.deformable_attention(
            self.query_linear(rows),
            references,
            context.tokens,
            context.camera_embedding,
            context.level_embedding,
        )
        pooled = self.pool(self.ffn(features), index, used)  # (B, 1 or K, N, C)
        return self.output_proj(pooled.flatten(2)).expand(-1, self.num_steps, -1)

    def look_points(self, waypoints: Tensor) -> Tensor:
        """Positions (B, Q, 3) of the queries: waypoints, then fixed points, each at all heights."""
        B = len(waypoints)
        ground = torch.cat([waypoints, self.fixed_points.to(waypoints).expand(B, -1, -1)], dim=1)
        heights = self.heights.to(waypoints)
        ground = ground.unsqueeze(2).expand(-1, -1, len(heights), -1)
        return torch.cat([ground, heights.view(-1, 1).expand(*ground.shape[:3], 1)], dim=-1).flatten(1, 2)

    def build_queries(
        self, points: Tensor, actions: Tensor, bev_vector: Tensor, context: LookContext
    ) -> Tensor:
        """Queries (B, Q, channels): action, position, embedding, measurement, BEV vector."""
        B, Q, _ = points.shape
        num_heights = len(self.heights)
        # a fixed point belongs to no step, its action is zero
        action = torch.cat([actions, actions.new_zeros(B, len(self.fixed_points), CONTROL_DIM)], dim=1)
        embedding = torch.cat([context.temporal_embedding, context.static_embedding])
        scene = torch.cat([context.measurement, bev_vector], dim=1)
        return torch.cat(
            [
                action.repeat_interleave(num_heights, dim=1),
                points,
                embedding.repeat_interleave(num_heights, dim=0).expand(B, -1, -1),
                scene.unsqueeze(1).expand(-1, Q, -1),
            ],
            dim=-1,
        )

    def sample_at(self, references: Tensor, context: LookContext) -> Tensor:
        """Tokens at the references, (B, N, M, C * levels), the level running fastest."""
        tokens = context.tokens
        num_levels = len(tokens.level_shapes)
        locations = references[..., None, None, :].expand(-1, -1, -1, num_levels, -1, -1)
        rows, weights = tokens.corners(locations, torch.ones_like(locations[..., 0]))
        return tokens.gather(rows, weights.to(tokens.table.dtype)).transpose(-1, -2).flatten(-2)

    def pool(self, features: Tensor, index: Tensor, used: Tensor) -> Tensor:
        """Mean over the used queries of each camera, so that padding and batch mates have no part in it.

        The 2023 code erased the first B queries instead of the padding and divided by B.

        Args:
            features: (B, N, M, C).
            index: (B, N, M) query of each row.
            used: (B, N, M) whether the row is a query and not padding.

        Returns:
            (B, groups, N, C), one group for all steps or one per step; zero where a camera sees none.
        """
        weights = self.queries_of_step[:, index].transpose(0, 1) * used.unsqueeze(1)  # (B, groups, N, M)
        total = torch.einsum('bgnm,bnmc->bgnc', weights.to(features.dtype), features)
        return total / weights.sum(-1, keepdim=True).clamp(min=1).to(features.dtype)


def pack_visible(visible: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the visible queries of each camera to the front.

    Args:
        visible: (B, N, Q) bool.

    Returns:
        Query index of each row, int64 (B, N, M), in the queries' order, and whether the row is
        a visible query, bool (B, N, M). M is the largest count of the batch, at least 1.
    """
    longest = max(int(visible.sum(-1).max()), 1)
    index = torch.argsort((~visible).to(torch.uint8), dim=-1, stable=True)[..., :longest]
    return index, visible.gather(2, index)


def select_queries(queries: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, M, C) of the queries (B, Q, C) at an index (B, N, M)."""
    batch = torch.arange(len(queries), device=queries.device).view(-1, 1, 1)
    return queries[batch, index]


def _query_groups(num_steps: int, num_fixed: int, num_heights: int, per_step: bool) -> Tensor:
    """Which queries are pooled together: bool (groups, Q)."""
    points = num_steps + num_fixed
    if not per_step:
        return torch.ones(1, points * num_heights, dtype=torch.bool)
    own = torch.cat(
        [torch.eye(num_steps, dtype=torch.bool), torch.ones(num_steps, num_fixed, dtype=torch.bool)], dim=1
    )
    return own.repeat_interleave(num_heights, dim=1)
