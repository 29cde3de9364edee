"""Future maps as 2023 predicted them (docs/reference_quirks, M5)."""

from torch import Tensor

from thinktwice.model_code.dense_heads.prediction_module import PredictionModule
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferencePredictionModule(PredictionModule):
    """Prediction module of the 2023 code; arguments as for :class:`PredictionModule`."""

    def __init__(self, bev_channels: int = 32, residual_channels: int | None = None) -> None:
        super().__init__(bev_channels, residual_channels)
        self.ffn.requires_grad_(False)

    def update(self, future: Tensor, previous: Tensor | None) -> Tensor:
        """Return the maps without the residual block's value (M5).

        The sum was computed and then thrown away: ``ffn`` is a dead parameter, and no layer
        builds on the maps of the one before.
        """
        return future
