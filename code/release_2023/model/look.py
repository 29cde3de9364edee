"""Looks back at the sensors as 2023 did them (docs/reference_quirks, M3, M4)."""

from typing import Any

from torch import Tensor

from thinktwice.model_code.dense_heads.interfaces import LookContext
from thinktwice.model_code.dense_heads.look_camera import CameraLook
from thinktwice.model_code.dense_heads.look_lidar import LidarLook
from thinktwice.registry import MODELS


@MODELS.register_module()
class ReferenceCameraLook(CameraLook):
    """Camera look of the 2023 code; arguments as for :class:`CameraLook`."""

    def pool(self, features: Tensor, index: Tensor, used: Tensor) -> Tensor:
        """Sum over all rows but the first B, divided by B (M4).

        The number of a camera's queries was read from a list with one entry a sample. So the
        first B valid queries are lost, padding rows count, and the scale is that of the batch
        size: a sample's plan depends on its batch mates, and training with 8 samples differs
        from driving with one.

        Args:
            features: (B, N, M, C).
            index: (B, N, M) query of each row, not used.
            used: (B, N, M) whether the row is a query, not used.

        Returns:
            (B, 1, N, C).
        """
        B = len(features)
        return features[:, :, B:].sum(2).div(B).unsqueeze(1)


@MODELS.register_module()
class ReferenceLidarLook(LidarLook):
    """LiDAR look of the 2023 code; arguments as for :class:`LidarLook`.

    Its networks are dead parameters. That the map is sampled with its axes swapped (M6) has
    no effect behind them and is not reproduced.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)

    def forward(self, waypoints: Tensor, actions: Tensor, context: LookContext) -> Tensor:
        """Return zeros in place of the features (M3).

        The decoder never looks at the LiDAR again, and this branch never trains. The zeros
        still count in the layer normalization that follows.

        Args:
            waypoints: (B, K, 2) ego meters.
            actions: (B, K, 4) Beta parameters, not used.
            context: the batch's sensors and embeddings, not used.

        Returns:
            (B, K, out_channels) zeros.
        """
        return waypoints.new_zeros(*waypoints.shape[:2], self.out_channels)
