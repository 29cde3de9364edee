"""The supervision of a frame: the expert's actions, a value estimate and the teacher's features."""

from typing import Any

import numpy as np

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.expert.teacher_network import teacher_network
from thinktwice.minitown.recording.calibration import EAST_PER_DEGREE, NORTH_PER_DEGREE

VALUE_SCALE = 10.0
VALUE_SECONDS = 1.5
VALUE_SPEED = 8.0


def teacher_value(speed: float, target_acceleration: float) -> float:
    """Return a value estimate 0..10 from the current speed and the speed after `VALUE_SECONDS`.

    Args:
        speed: m/s.
        target_acceleration: Desired acceleration by the traffic rules, m/s^2.
    """
    soon = min(max(speed + VALUE_SECONDS * target_acceleration, 0.0), VALUE_SPEED)
    return VALUE_SCALE * 0.5 * (min(speed, VALUE_SPEED) + soon) / VALUE_SPEED


def make_supervision(drive: Drive, masks: np.ndarray, measurements: dict[str, Any]) -> dict[str, Any]:
    """Return the supervision record of the current step.

    Args:
        drive: At the step of the frame.
        masks: (15, 192, 192) uint8 teacher masks.
        measurements: Of the frame, for the target point.
    """
    decision = drive.decision
    control = decision.control
    teacher_brake = max(0.0, -decision.pedal)
    levels, features = teacher_network().encode(masks, drive.ego.speed)
    return {
        'action': np.array([control.throttle, control.steer, control.brake], dtype=np.float32),
        'action_mu': decision.alpha,
        'action_sigma': decision.beta,
        'value': np.float32(teacher_value(drive.ego.speed, decision.target_acceleration)),
        'features': features,
        'cnn_features': levels,
        'speed': float(drive.ego.speed),
        'target_gps': np.array(
            [measurements['x_target'] / NORTH_PER_DEGREE, measurements['y_target'] / EAST_PER_DEGREE, 0.0],
            dtype=np.float32,
        ),
        'target_command': np.array([measurements['target_command']], dtype=np.int8),
        'should_brake': bool(decision.hazard),
        'only_ap_brake': bool(decision.hazard and teacher_brake == 0.0),
    }
