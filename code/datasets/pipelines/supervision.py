"""Load the teacher's outputs: Beta distributions, values, features and BEV maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thinktwice.registry import TRANSFORMS

from ..storage import RouteReader, SampleReadError

Results = dict[str, Any]


@TRANSFORMS.register_module()
class LoadSupervision:
    """Load the teacher's outputs at the key frame and at future frames. Does nothing without targets.

    Loads the actions of the key frame and of the first K - 1 future frames; with features also value,
    feature and some map levels of the key frame, and one map level of each future frame.

    Where the hazard rule of the recording braked but the teacher did not (`only_ap_brake`), the
    teacher's acceleration distribution is replaced by a braking one; steering is unchanged.

    Args:
        levels: map levels of the key frame, in the order of `grid_feature`.
        future_level: map level of the future frames.
        brake_alpha: alpha of the braking distribution.
        brake_beta: beta of the braking distribution.
        with_features: whether to load the teacher's value, feature and maps besides the actions.

    Required Keys:
        - reader (RouteReader)
        - frames (list[int]): T frames, the key frame last
        - future_frames (list[int]): K frames after the key frame
        - with_targets (bool)

    Added Keys:
        - action_alpha, action_beta (np.ndarray): (2,) float32 acceleration, steer
        - future_action_alpha, future_action_beta (np.ndarray): (K - 1, 2) float32
        - value (float): the teacher's value estimate of the state; with features, as all below
        - feature (np.ndarray): (256,) float32
        - grid_feature (list[np.ndarray]): a (C, Y, X) float32 map per level
        - future_grid_feature (np.ndarray): (K, C, Y, X) float32
    """

    def __init__(
        self,
        levels: Sequence[int] = (2, 3, 4, 5),
        future_level: int = 2,
        brake_alpha: float = 0.8,
        brake_beta: float = 5.5,
        with_features: bool = True,
    ) -> None:
        self.levels = tuple(levels)
        self.future_level = future_level
        self.brake_alpha = brake_alpha
        self.brake_beta = brake_beta
        self.with_features = with_features

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        if not results['with_targets']:
            return results
        reader, key_frame = results['reader'], results['frames'][-1]
        values = reader.supervision(key_frame)
        results['action_alpha'], results['action_beta'] = self._action(values)
        if self.with_features:
            results['value'] = float(values['value'])
            results['feature'] = np.asarray(values['features'], dtype=np.float32)
            results['grid_feature'] = [self._map(values, level, reader, key_frame) for level in self.levels]

        maps, actions = [], []
        for frame in results['future_frames']:
            values = reader.supervision(frame)
            actions.append(self._action(values))
            if self.with_features:
                maps.append(self._map(values, self.future_level, reader, frame))
        if self.with_features:
            results['future_grid_feature'] = np.stack(maps)
        # The action at the last future frame leads beyond the horizon: no prediction corresponds to it.
        used = np.array(actions[:-1], dtype=np.float32).reshape(-1, 2, 2)
        results['future_action_alpha'], results['future_action_beta'] = used[:, 0], used[:, 1]
        return results

    def _action(self, values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and beta of a frame, each (2,): acceleration, steer."""
        alpha = np.array(values['action_mu'], dtype=np.float32)
        beta = np.array(values['action_sigma'], dtype=np.float32)
        if values['only_ap_brake']:
            alpha[0], beta[0] = self.brake_alpha, self.brake_beta
        return alpha, beta

    @staticmethod
    def _map(values: dict[str, Any], level: int, reader: RouteReader, frame: int) -> np.ndarray:
        maps = values['cnn_features']
        if not 0 <= level < len(maps) or maps[level] is None:
            raise SampleReadError(reader.path('supervision', frame), f'has no teacher map of level {level}')
        return np.asarray(maps[level], dtype=np.float32)
