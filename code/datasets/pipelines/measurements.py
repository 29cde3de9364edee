"""Load ego poses, speed, command, target point and future waypoints."""

import math
from typing import Any

import numpy as np

from thinktwice.geometry import poses
from thinktwice.geometry.route_planner import RoadOption
from thinktwice.registry import TRANSFORMS

from ..storage import RouteReader, UnusableSampleError

Results = dict[str, Any]

NUM_COMMANDS = len(RoadOption)
NO_HEADING = 'theta is NaN, the frame has no heading'


def read_pose(reader: RouteReader, frame: int) -> tuple[dict[str, Any], np.ndarray]:
    """Read the measurements of a frame and its world pose, (3,) x, y, yaw in meters and radians.

    Raises:
        UnusableSampleError: if the compass heading is NaN. Any substitute would rotate waypoints
            and target point by an arbitrary angle.
        SampleReadError: if the file can't be read.
    """
    values = reader.measurements(frame)
    if math.isnan(values['theta']):
        raise UnusableSampleError(reader.path('measurements', frame), NO_HEADING)
    position = poses.north_east_to_world(values['x'], values['y'])
    return values, np.array([*position, poses.compass_to_yaw(values['theta'])])


def command_index(value: float) -> tuple[int, bool]:
    """Class index of a road option, 0..5, and whether it was invalid and became LANE_FOLLOW."""
    if value in range(1, NUM_COMMANDS + 1):
        return int(value) - 1, False
    return RoadOption.LANE_FOLLOW - 1, True


@TRANSFORMS.register_module()
class LoadMeasurements:
    """Load the poses of the queue, and speed, target point and command of the key frame.

    A recorded command that is no `RoadOption` is replaced by LANE_FOLLOW and flagged.

    Required Keys:
        - reader (RouteReader)
        - frames (list[int]): T frames, the key frame last

    Added Keys:
        - ego_poses (np.ndarray): (T, 3) float64 world x, y (m) and yaw (rad)
        - frame2key (np.ndarray): (T, 4, 4) float32, ego frame of each time to key ego frame
        - speed (float): m/s, key frame
        - target_point (np.ndarray): (2,) float32 forward, right (m), key ego frame
        - command (int): 0..5
        - command_replaced (bool): whether the recorded command was invalid

    Raises:
        UnusableSampleError: in the call, if a frame has no heading.
    """

    read_pose = staticmethod(read_pose)

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        reads = [self.read_pose(results['reader'], frame) for frame in results['frames']]
        values, key_pose = reads[-1]
        target = poses.north_east_to_world(values['x_target'], values['y_target'])
        results['ego_poses'] = np.stack([pose for _, pose in reads])
        results['frame2key'] = np.stack([poses.relative_pose(pose, key_pose) for _, pose in reads]).astype(
            np.float32
        )
        results['speed'] = float(values['speed'])
        results['target_point'] = poses.world_to_ego(target, key_pose).astype(np.float32)
        results['command'], results['command_replaced'] = command_index(values['target_command'])
        return results


@TRANSFORMS.register_module()
class LoadWaypoints:
    """Load the future positions of the ego vehicle in the key ego frame. Does nothing without targets.

    Required Keys:
        - reader (RouteReader)
        - ego_poses (np.ndarray): (T, 3)
        - future_frames (list[int]): K frames after the key frame
        - with_targets (bool)

    Added Keys:
        - waypoints (np.ndarray): (K, 2) float32 forward, right (m), key ego frame

    Raises:
        UnusableSampleError: in the call, if a frame has no heading.
    """

    read_pose = staticmethod(read_pose)

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        if not results['with_targets']:
            return results
        future = [self.read_pose(results['reader'], frame)[1] for frame in results['future_frames']]
        positions = np.array([pose[: poses.POSE_YAW] for pose in future]).reshape(-1, 2)
        waypoints = poses.world_to_ego(positions, results['ego_poses'][-1])
        results['waypoints'] = waypoints.astype(np.float32)
        return results
