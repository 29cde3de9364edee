"""Decoder with the unused parameters and initialization of 2023 (docs/reference_quirks, M8, M19, M20)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from thinktwice.model_code.dense_heads.coarse_head import CoarsePrediction
from thinktwice.model_code.dense_heads.interfaces import LookContext, SceneState
from thinktwice.model_code.dense_heads.layers import mlp
from thinktwice.model_code.dense_heads.refine_layer import RefineLayer
from thinktwice.model_code.dense_heads.thinktwice_decoder import ThinkTwiceDecoder
from thinktwice.registry import MODELS


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
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Refine layer by layer; layers and steps of the returned future maps are mixed up (M20).

        The stack over layers and steps is reshaped as if it were over steps and layers. No loss uses
        this output; the maps of the teacher-forcing pass are in order.
        """
        outputs = super().refine(coarse, start, context, flatten_head)
        future = outputs['refine_future_bev_map']
        B, L, K = future.shape[:3]
        outputs['refine_future_bev_map'] = future.reshape(B, K, L, *future.shape[3:]).transpose(1, 2)
        return outputs
