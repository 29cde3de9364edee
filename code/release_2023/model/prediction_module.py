"""Prediction module of 2023 (docs/reference_quirks, M5)."""

from jaxtyping import Float
from torch import Tensor

from thinktwice.model_code.dense_heads.prediction_module import PredictionModule
from thinktwice.registry import MODELS


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
