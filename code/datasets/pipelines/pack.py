"""Last pipeline step: pack one sample into plain tensors with named fields."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from thinktwice.errors import ConfigError
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


def run_pipeline(steps: Iterable[Callable[[Results], Results]], results: Results) -> Results:
    """Run steps in order.

    Raises:
        ConfigError: A step of this package reads what no step before it has added.
    """
    for step in steps:
        try:
            results = step(results)
        except KeyError as error:
            key = error.args[0] if error.args else ''
            if key in results or not type(step).__module__.startswith('thinktwice.'):
                raise
            raise ConfigError(
                f'pipeline: {type(step).__name__} reads {key!r}, which no step before it adds: put the step '
                'that does before it, or leave it out'
            ) from error
    return results


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

    Inputs and targets are separate groups, so that no label can reach the prediction path. What no
    step of the pipeline has added is left out; without labels there is no `targets` group.

    Args:
        inputs: names of further inputs, of steps of one's own.
        targets: names of further targets.

    Required Keys:
        - with_targets
        - those of `INPUT_KEYS`, `TARGET_KEYS` and `META_KEYS` whose step is in the pipeline, and of
          ego_poses, reader, frames, calibration

    Added Keys:
        - inputs (dict): tensors by name
        - targets (dict): tensors by name; only with targets
        - metas (dict): identifiers, random seed and paths of the sample
    """

    def __init__(self, inputs: Sequence[str] = (), targets: Sequence[str] = ()) -> None:
        self.input_keys = (*INPUT_KEYS, *inputs)
        self.target_keys = (*TARGET_KEYS, *targets)

    def __call__(self, results: Results) -> Results:
        """Run the step; see the class."""
        packed: Results = {'inputs': _tensors(results, self.input_keys)}
        if results['with_targets']:
            packed['targets'] = _tensors(results, self.target_keys)
        metas = {key: results[key] for key in META_KEYS if key in results}
        if 'ego_poses' in results:
            metas['ego_pose'] = results['ego_poses'][-1].tolist()
        if 'img' in results:
            metas['image_paths'] = [
                results['reader'].path(camera.rgb, results['frames'][-1])
                for camera in results['calibration'].cameras
            ]
        return {**packed, 'metas': metas}


def _tensors(results: Results, keys: Iterable[str]) -> Results:
    return {key: to_tensor(results[key]) for key in keys if key in results}
