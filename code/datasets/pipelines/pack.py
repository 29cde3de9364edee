"""Last pipeline step: pack one sample into plain tensors with named fields."""

from typing import Any

import numpy as np
import torch

from thinktwice.registry import TRANSFORMS

Results = dict[str, Any]

INPUT_KEYS = (
    'img',
    'points',
    'intrinsics',
    'cam2ego',
    'frame2key',
    'ida_mats',
    'speed',
    'target_point',
    'command',
)
TARGET_KEYS = (
    'depth',
    'seg',
    'waypoints',
    'value',
    'feature',
    'grid_feature',
    'future_grid_feature',
    'action_alpha',
    'action_beta',
    'future_action_alpha',
    'future_action_beta',
)
META_KEYS = (
    'sample_id',
    'town',
    'route',
    'frame',
    'index',
    'requested_index',
    'epoch',
    'seed',
    'test_mode',
    'command_replaced',
    'skipped',
    'speed',
    'command',
)


def to_tensor(value: Any) -> Any:
    """Convert an array or number to a tensor (Python floats to float32), and lists element by element."""
    if isinstance(value, (list, tuple)):
        return [to_tensor(item) for item in value]
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float32)
    if isinstance(value, int):
        return torch.tensor(value, dtype=torch.int64)
    return torch.from_numpy(np.ascontiguousarray(value))


@TRANSFORMS.register_module()
class PackSample:
    """Group the results of the earlier steps into inputs, targets and metas.

    Inputs and targets are separate groups, so that no label can reach the prediction path.
    Without labels there is no `targets` group; targets whose step is not in the pipeline are
    omitted.

    Required Keys:
        - `INPUT_KEYS`, `META_KEYS`, reader, calibration, frames, ego_poses, with_targets
        - those of `TARGET_KEYS` whose step is in the pipeline

    Added Keys:
        - inputs (dict): tensors by name
        - targets (dict): tensors by name; only with targets
        - metas (dict): identifiers, random seed and paths of the sample

    Raises:
        KeyError: in the call, if an input is missing because its step is not in the pipeline.
    """

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        missing = [key for key in INPUT_KEYS if key not in results]
        if missing:
            raise KeyError(
                f'PackSample: no step of the pipeline added {", ".join(missing)}; the inputs need '
                'LoadMeasurements, LoadPoints and LoadCameras'
            )
        packed: Results = {'inputs': {key: to_tensor(results[key]) for key in INPUT_KEYS}}
        if results['with_targets']:
            packed['targets'] = {key: to_tensor(results[key]) for key in TARGET_KEYS if key in results}
        metas = {key: results[key] for key in META_KEYS}
        metas['ego_pose'] = results['ego_poses'][-1].tolist()
        metas['image_paths'] = [
            results['reader'].path(camera.rgb, results['frames'][-1])
            for camera in results['calibration'].cameras
        ]
        return {**packed, 'metas': metas}
