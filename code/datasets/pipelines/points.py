"""Load the LiDAR sweeps of several frames as one point cloud."""

from typing import Any

import numpy as np

from thinktwice.geometry import poses
from thinktwice.registry import TRANSFORMS

Results = dict[str, Any]

# Columns of the aggregated cloud.
POINT_XYZ, POINT_INTENSITY, POINT_FRAME_OFFSET, POINT_COLUMNS = slice(0, 3), 3, 4, 5


@TRANSFORMS.register_module()
class LoadPoints:
    """Load the sweeps of the queue and transform them to the key ego frame.

    Rows: the key sweep first, then the history from newest to oldest, each in its recorded
    order. The last column is the frame offset: 0 for the key sweep, -1 for the one before it. A
    queue of one frame has the same columns. (The 2023 code multiplied the translation of the
    transform by the intensity instead of by 1.)

    Required Keys:
        - reader (RouteReader)
        - frames (list[int]): T frames, the key frame last
        - ego_poses (np.ndarray): (T, 3)

    Added Keys:
        - points (np.ndarray): (P, 5) float32 x, y, z (m), intensity, frame offset
    """

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        sweeps = [results['reader'].points(frame) for frame in reversed(results['frames'])]
        cloud = np.empty((sum(map(len, sweeps)), POINT_COLUMNS), dtype=np.float32)
        key_pose = results['ego_poses'][-1]
        start = 0
        for offset, sweep in enumerate(sweeps):
            rows = cloud[start : start + len(sweep)]
            rows[:, :POINT_FRAME_OFFSET] = sweep
            rows[:, POINT_FRAME_OFFSET] = -offset
            if offset:
                rows[:, POINT_XYZ] = self.align(sweep, results['ego_poses'][-1 - offset], key_pose)
            start += len(sweep)
        results['points'] = cloud
        return results

    def align(self, sweep: np.ndarray, history: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Transform a sweep (P, 4) from its pose (3,) to positions (P, 3) in the key ego frame."""
        return poses.transform_points(poses.relative_pose(history, key), sweep[:, POINT_XYZ])
