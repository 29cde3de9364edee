"""The teacher's part of a frame: actions, value and feature maps."""

from typing import Any

import numpy as np

from thinktwice.minitown.drive import Drive
from thinktwice.minitown.expert.teacher_network import teacher_network
from thinktwice.minitown.sensors.cameras import EAST_PER_DEGREE, NORTH_PER_DEGREE

VALUE_SCALE = 10.0
VALUE_SECONDS = 1.5
VALUE_SPEED = 8.0


def teacher_value(speed: float, wanted_acceleration: float) -> float:
    """Stand-in of the teacher's value estimate, 0..10: how fast the car goes and is about to go.

    Args:
        speed: m/s.
        wanted_acceleration: m/s^2 asked for by the traffic rules.
    """
    soon = min(max(speed + VALUE_SECONDS * wanted_acceleration, 0.0), VALUE_SPEED)
    return VALUE_SCALE * 0.5 * (min(speed, VALUE_SPEED) + soon) / VALUE_SPEED


def make_supervision(drive: Drive, masks: np.ndarray, target: dict[str, Any]) -> dict[str, Any]:
    """Return the supervision record of the present moment.

    Args:
        drive: at a recorded step.
        masks: (15, 192, 192) uint8 teacher masks.
        target: the measurements, for the target node.
    """
    decision = drive.decision
    control = decision.control
    brake_of_teacher = max(0.0, -decision.pedal)
    gear = 1.0 if drive.ego.speed > 0.1 else 0.0
    state = np.array([control.throttle, control.steer, control.brake, gear, drive.ego.speed, 0.0])
    levels, features = teacher_network().encode(masks, state)
    return {
        'action': np.array([control.throttle, control.steer, control.brake], dtype=np.float32),
        'action_mu': decision.alpha,
        'action_sigma': decision.beta,
        'value': np.float32(teacher_value(drive.ego.speed, decision.target_acceleration)),
        'features': features,
        'cnn_features': levels,
        'speed': float(drive.ego.speed),
        'target_gps': np.array(
            [target['x_target'] / NORTH_PER_DEGREE, target['y_target'] / EAST_PER_DEGREE, 0.0],
            dtype=np.float32,
        ),
        'target_command': np.array([target['target_command']], dtype=np.int8),
        'should_brake': bool(decision.hazard),
        'only_ap_brake': bool(decision.hazard and brake_of_teacher == 0.0),
    }
