"""Decoder with the outputs, dead parts and initialization of 2023 (docs/reference_quirks, M8, M19, M20)."""

from typing import Any

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

    It holds ``look_feature_mlp``, a network that the official weights contain and nothing
    calls, so that a checkpoint keeps all its entries on the way here and back.

    Args:
        num_steps: Future steps K.
        hidden_channels: Width of a step's feature.
        measurement_channels: Width of the encoded measurements.
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
        """Xavier normal for every layer, the attention's included (M19), level embeddings of 0 (M8).

        The sampling offsets start as random projections around the reference point instead of
        rings, the attention weights start random instead of equal, and the levels start without
        anything to tell them apart.
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
    ) -> dict[str, Tensor]:
        """Refine layer by layer; the returned future maps are scrambled (M20).

        The stack of layers and steps is read as if it were one of steps and layers. No loss
        uses this output; the teacher pass returns its maps in order.
        """
        outputs = super().refine(coarse, start, context, flatten_head)
        future = outputs['refine_future_bev_map']
        B, L, K = future.shape[:3]
        outputs['refine_future_bev_map'] = future.reshape(B, K, L, *future.shape[3:]).transpose(1, 2)
        return outputs
