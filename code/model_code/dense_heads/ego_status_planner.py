"""A planner without sensors: the baseline that a model with sensors has to beat."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from thinktwice.model_code.dense_heads.interfaces import ACTION_DIM, MIN_BETA_PARAMETER, WAYPOINT_DIM, Planner
from thinktwice.model_code.dense_heads.layers import in_float32, mlp
from thinktwice.model_code.scene import Measurements, SceneFeatures
from thinktwice.registry import MODELS


@MODELS.register_module()
class EgoStatusPlanner(Planner):
    """Waypoints and actions from speed, target point and command alone (as NAVSIM's ego-status MLP).

    Args:
        num_steps: Future steps K.
        measurement_channels: Channels Cm of the encoded measurements.
        hidden_channels: Channels of the hidden layer.
    """

    def __init__(
        self, num_steps: int = 4, measurement_channels: int = 128, hidden_channels: int = 128
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.scene_channels = {'measurements': ('measurement_channels', measurement_channels)}
        outputs = num_steps * (WAYPOINT_DIM + 2 * ACTION_DIM)
        self.layers = mlp(measurement_channels, hidden_channels, outputs)

    def forward(
        self, scene: SceneFeatures, measurements: Measurements, teacher: None = None
    ) -> dict[str, Float[Tensor, 'B ...']]:
        """Predict one stage; see :meth:`Planner.forward`."""
        plan = in_float32(self.layers, measurements.features).unflatten(1, (1, self.num_steps, -1))
        waypoints, alpha, beta = plan.split([WAYPOINT_DIM, ACTION_DIM, ACTION_DIM], dim=-1)
        return {
            'pred_waypoints': waypoints,
            'pred_alpha': F.softplus(alpha).clamp(min=MIN_BETA_PARAMETER),
            'pred_beta': F.softplus(beta).clamp(min=MIN_BETA_PARAMETER),
        }
