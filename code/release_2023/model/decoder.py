"""Decoder of 2023 (docs/reference_quirks, M3 to M5, M8, M19, M20)."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.coarse_head import CoarsePrediction
from thinktwice.model_code.dense_heads.interfaces import LookContext, SceneState, TeacherInputs
from thinktwice.model_code.dense_heads.layers import mlp
from thinktwice.model_code.dense_heads.look_camera import CameraLook
from thinktwice.model_code.dense_heads.look_lidar import LidarLook
from thinktwice.model_code.dense_heads.prediction_module import PredictionModule
from thinktwice.model_code.dense_heads.refine_layer import RefineLayer
from thinktwice.model_code.dense_heads.thinktwice_decoder import ThinkTwiceDecoder
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferenceCameraLook(CameraLook):
    """Camera look of the 2023 code; arguments as for :class:`CameraLook`."""

    def pool(
        self, features: Float[Tensor, 'B N Q C'], visible: Bool[Tensor, 'B N Q'], context: LookContext
    ) -> Float[Tensor, 'B 1 N C']:
        """Sum over all rows but the first B, divided by B (M4).

        The queries that a camera sees were padded with rows of zeros to the largest number of a camera,
        and the padding took part in attention and sum. The number of queries of a camera was read from a
        list with one entry per sample, so that the first B queries are dropped: the plan of a sample
        depends on the other samples of the batch, and training with a batch size of 8 differs from
        driving with 1.

        Args:
            features: Result of the attention, zero where a query is not visible.
            visible: Whether a camera sees a query.
            context: Sensor features and embeddings of the batch.
        """
        images = context.images
        assert images is not None
        samples, N = images.tokens.batch_shape
        norm = self.query_linear[0]
        assert isinstance(norm, nn.LayerNorm)
        zeros = features.new_zeros(samples * N, *norm.normalized_shape)
        cameras = torch.arange(samples * N, device=visible.device)
        padding = self.attend(zeros, zeros[:, :2], cameras, images).unflatten(0, (samples, N))
        counts = visible.sum(-1).unflatten(0, (-1, samples))  # (passes, samples, N)
        longest = counts.amax((1, 2), keepdim=True)
        num_padding = (longest - counts.clamp(min=samples)).clamp(min=0).unsqueeze(-1)
        kept = visible & (visible.cumsum(-1) > samples)
        total = (features * kept.unsqueeze(-1)).sum(2) + (padding * num_padding).flatten(0, 1)
        return total.div(samples).unsqueeze(1)


@MODELS.register_module()
class ReferenceLidarLook(LidarLook):
    """LiDAR look of the 2023 code; arguments as for :class:`LidarLook`.

    The parameters of its networks are unused. That the map was sampled with its axes swapped (M6) has
    no effect and is not reproduced.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)

    def forward(
        self, waypoints: Float[Tensor, 'B K 2'], actions: Float[Tensor, 'B K 4'], context: LookContext
    ) -> Float[Tensor, 'B K out_channels']:
        """Return zeros instead of the features (M3), which enter the layer normalization that follows.

        Args:
            waypoints: x, y in the ego frame, meters.
            actions: Beta parameters, not used.
            context: Sensor features and embeddings of the batch, not used.
        """
        return waypoints.new_zeros(*waypoints.shape[:2], self.out_channels)


@MODELS.register_module()
class ReferencePredictionModule(PredictionModule):
    """Prediction module of the 2023 code; arguments as for :class:`PredictionModule`."""

    def __init__(self, bev_channels: int = 32, residual_channels: int | None = None) -> None:
        super().__init__(bev_channels, residual_channels)
        self.ffn.requires_grad_(False)

    def update(
        self, future: Float[Tensor, 'B K C X Y'], previous: Float[Tensor, 'B K C X Y'] | None
    ) -> Float[Tensor, 'B K C X Y']:
        """Return the maps without the output of the residual block (M5).

        The sum was computed and then discarded: the parameters of ``ffn`` are unused, and no layer
        refines the maps of the previous one.
        """
        return future


@MODELS.register_module()
class ReferenceRefineLayer(RefineLayer):
    """Refine layer of the 2023 code; arguments as for :class:`RefineLayer`.

    It has ``look_feature_mlp``, a network of the official checkpoint that is never called, so that
    converting a checkpoint back and forth keeps all its entries.

    Args:
        num_steps: Future steps K.
        hidden_channels: Channels of the feature of each step.
        measurement_channels: Channels Cm of the encoded measurements.
        kwargs: The other arguments of :class:`RefineLayer`.
    """

    def __init__(
        self, num_steps: int = 4, hidden_channels: int = 512, measurement_channels: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(
            num_steps=num_steps,
            hidden_channels=hidden_channels,
            measurement_channels=measurement_channels,
            **kwargs,
        )
        self.look_feature_mlp = mlp(num_steps * hidden_channels, hidden_channels, measurement_channels)
        self.look_feature_mlp.requires_grad_(False)


@MODELS.register_module()
class ReferenceThinkTwiceDecoder(ThinkTwiceDecoder):
    """Decoder of the 2023 code; arguments as for :class:`ThinkTwiceDecoder`."""

    def init_weights(self) -> None:
        """Initialize all layers from a Xavier normal (M19) and the level embeddings to 0 (M8).

        This includes the attention, whose sampling offsets are random projections instead of rings
        around the reference point and whose weights are random instead of uniform. The levels are not
        distinguished.
        """
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if len(self.layers):
            nn.init.zeros_(self.level_embedding)

    def refine(
        self,
        coarse: CoarsePrediction,
        start: SceneState,
        context: LookContext | None,
        flatten_head: nn.Module,
        teacher: TeacherInputs | None = None,
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Refine layer by layer; layers and steps of the returned future maps are mixed up (M20).

        The stack over layers and steps is reshaped as if it were over steps and layers. No loss uses
        this output; the maps of the teacher-forcing pass are in order.
        """
        outputs = super().refine(coarse, start, context, flatten_head, teacher)
        future = outputs['refine_future_bev_map']
        B, L, K = future.shape[:3]
        outputs['refine_future_bev_map'] = future.reshape(B, K, L, *future.shape[3:]).transpose(1, 2)
        return outputs
