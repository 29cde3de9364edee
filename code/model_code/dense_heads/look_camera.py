"""Look module of the cameras: image features around the planned positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention, FeedForward
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens
from thinktwice.model_code.dense_heads.interfaces import CONTROL_DIM, ImageContext, LookContext, LookModule
from thinktwice.model_code.projection import project_to_cameras
from thinktwice.registry import MODELS

FFN_RATIO = 4  # hidden channels of the feed-forward block per input channel


@MODELS.register_module()
class CameraLook(LookModule):
    """Image features around the plan by deformable attention (the camera part of the paper's Look Module).

    Each waypoint and each fixed point around the car gives one query per height, Q queries in all.
    A query attends to the images of all cameras that it projects into.

    Args:
        num_cameras: Cameras N.
        num_levels: Pyramid levels of the tokens.
        channels: Channels C of the tokens.
        embed_channels: Channels E of the temporal and static embeddings.
        measurement_channels: Channels Cm of the encoded measurements.
        vector_channels: Channels Cv of the BEV vector.
        num_steps: Future steps K.
        heights: Heights of the queries of each point, meters above the ground.
        fixed_points: x, y in the ego frame, meters.
        num_heads: Attention heads.
        num_points: Sampling points per head and level.
        hidden_channels: Channels of the hidden layers.
        out_channels: Channels of the look features.
        pool_per_step: Pool the queries of each step's waypoint and of the fixed points for each step,
            instead of all queries for all steps.
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

    def forward(
        self,
        waypoints: Float[Tensor, 'B K 2'],
        actions: Float[Tensor, 'B K 4'],
        bev_vector: Float[Tensor, 'B Cv'],
        context: LookContext,
    ) -> Float[Tensor, 'B K out_channels']:
        """Retrieve image features around the plan.

        Args:
            waypoints: x, y in the ego frame, meters.
            actions: Beta parameters, positive.
            bev_vector: The flattened scene.
            context: Sensor features and embeddings of the batch.
        """
        images = context.images
        assert images is not None
        points = self.look_points(waypoints)  # (B, Q, 3)
        queries = self.build_queries(points, actions, bev_vector, context)
        locations, visible = project_to_cameras(points, images.ego2img, images.ida_mats, images.image_size)
        features = self.attend_visible(queries, locations, visible, images)
        pooled = self.pool(features, visible, context)  # (B, 1 or K, N, C)
        return self.output_proj(pooled.flatten(2)).expand(-1, self.num_steps, -1)

    def look_points(self, waypoints: Float[Tensor, 'B K 2']) -> Float[Tensor, 'B Q 3']:
        """Positions of the queries: waypoints, then fixed points, each at all heights."""
        B = len(waypoints)
        ground = torch.cat([waypoints, self.fixed_points.to(waypoints).expand(B, -1, -1)], dim=1)
        heights = self.heights.to(waypoints)
        ground = ground.unsqueeze(2).expand(-1, -1, len(heights), -1)
        return torch.cat([ground, heights.view(-1, 1).expand(*ground.shape[:3], 1)], dim=-1).flatten(1, 2)

    def build_queries(
        self,
        points: Float[Tensor, 'B Q 3'],
        actions: Float[Tensor, 'B K 4'],
        bev_vector: Float[Tensor, 'B Cv'],
        context: LookContext,
    ) -> Float[Tensor, 'B Q query_channels']:
        """Concatenate action, position, embedding, measurement and BEV vector of each query."""
        B, Q, _ = points.shape
        num_heights = len(self.heights)
        # fixed points belong to no step, so their action is zero
        action = torch.cat([actions, actions.new_zeros(B, len(self.fixed_points), CONTROL_DIM)], dim=1)
        assert context.images is not None
        embedding = torch.cat([context.temporal_embedding, context.images.static_embedding])
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

    def attend_visible(
        self,
        queries: Float[Tensor, 'B Q query_channels'],
        locations: Float[Tensor, 'B N Q 2'],
        visible: Bool[Tensor, 'B N Q'],
        images: ImageContext,
    ) -> Float[Tensor, 'B N Q C']:
        """Attend from each query to the cameras that see it; zero for the others."""
        sample, camera, query = visible.nonzero(as_tuple=True)  # (V,) each
        cameras = sample % images.tokens.batch_shape[0] * visible.shape[1] + camera  # the same in all passes
        references = locations[sample, camera, query]
        rows = torch.cat([queries[sample, query], self.sample_at(references, cameras, images.tokens)], dim=-1)
        features = self.attend(rows, references, cameras, images)
        spread = features.new_zeros(*visible.shape, features.shape[-1])
        return spread.index_put((sample, camera, query), features)

    def sample_at(
        self, references: Float[Tensor, 'V 2'], cameras: Int64[Tensor, ' V'], tokens: ImageTokens
    ) -> Float[Tensor, 'V sampled_channels']:
        """Sample all levels at the reference points; the level is the fastest index of the channels."""
        locations = references[:, None, None, :].expand(-1, len(tokens.level_shapes), -1, -1)
        rows, weights = tokens.corners(locations, torch.ones_like(locations[..., 0]), cameras)
        return tokens.gather(rows, weights.to(tokens.table.dtype)).transpose(-1, -2).flatten(-2)

    def attend(
        self,
        rows: Float[Tensor, 'V row_channels'],
        references: Float[Tensor, 'V 2'],
        cameras: Int64[Tensor, ' V'],
        images: ImageContext,
    ) -> Float[Tensor, 'V C']:
        """Apply the attention and the block after it to queries with the features at their references."""
        return self.ffn(
            self.deformable_attention(
                self.query_linear(rows),
                references,
                cameras,
                images.tokens,
                images.camera_embedding,
                images.level_embedding,
            )
        )

    def pool(
        self, features: Float[Tensor, 'B N Q C'], visible: Bool[Tensor, 'B N Q'], context: LookContext
    ) -> Float[Tensor, 'B groups N C']:
        """Average the queries that each camera sees, so that samples do not affect each other.

        2023 added padding and dropped the first B queries (docs/reference_quirks, M4).

        Args:
            features: Result of the attention, zero where a query is not visible.
            visible: Whether a camera sees a query.
            context: Not used.

        Returns:
            One group for all steps or one per step; zero where a camera sees no query.
        """
        weights = self.queries_of_step[:, None] & visible.unsqueeze(1)  # (B, groups, N, Q)
        total = torch.einsum('bgnq,bnqc->bgnc', weights.to(features.dtype), features)
        return total / weights.sum(-1, keepdim=True).clamp(min=1).to(features.dtype)


def _query_groups(
    num_steps: int, num_fixed: int, num_heights: int, per_step: bool
) -> Bool[Tensor, 'groups Q']:
    """Which queries are pooled together."""
    points = num_steps + num_fixed
    if not per_step:
        return torch.ones(1, points * num_heights, dtype=torch.bool)
    own = torch.cat(
        [torch.eye(num_steps, dtype=torch.bool), torch.ones(num_steps, num_fixed, dtype=torch.bool)], dim=1
    )
    return own.repeat_interleave(num_heights, dim=1)
