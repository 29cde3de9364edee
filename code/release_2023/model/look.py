"""Look modules of 2023 (docs/reference_quirks, M3, M4)."""

from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from thinktwice.model_code.dense_heads.interfaces import LookContext
from thinktwice.model_code.dense_heads.look_camera import CameraLook
from thinktwice.model_code.dense_heads.look_lidar import LidarLook
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferenceCameraLook(CameraLook):
    """Camera look of the 2023 code; arguments as for :class:`CameraLook`."""

    def pool(
        self,
        features: Float[Tensor, 'B N M C'],
        index: Int64[Tensor, 'B N M'],
        used: Bool[Tensor, 'B N M'],
    ) -> Float[Tensor, 'B 1 N C']:
        """Sum over all rows but the first B, divided by B (M4).

        The number of queries of a camera was read from a list with one entry per sample. The first B
        valid queries are dropped, padding is included, and the scale depends on the batch size: the
        plan of a sample depends on the other samples of the batch, and training with a batch size of
        8 differs from driving with 1.

        Args:
            features: Result of the attention for M rows per camera.
            index: Query of each row, not used.
            used: Whether the row is a query, not used.
        """
        B = len(features)
        return features[:, :, B:].sum(2).div(B).unsqueeze(1)


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
