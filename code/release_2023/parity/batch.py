"""Turn a batch of the official format into the inputs and targets of this framework."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FIRST_TEACHER_LEVEL = 2  # the two finer maps of the teacher are never read


def from_official_batch(batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rename and restack one official training batch.

    Args:
        batch: As :func:`~thinktwice.release_2023.parity.inputs.deterministic_batch` makes it.
            Images are normalized already.

    Returns:
        Inputs (``img`` (B,T,N,3,H,W), ``points`` a list of B (P,5), ``intrinsics``
        (B,T,N,3,3), ``cam2ego`` (B,T,N,4,4), ``frame2key`` (B,T,4,4), ``ida_mats``
        (B,T,N,4,4), ``speed`` (B,), ``target_point`` (B,2), ``command`` (B,)) and
        targets as the collated samples of the dataset hold them.
    """
    metas = batch['img_metas']
    inputs = {
        'img': batch['img'],
        'points': [points[-1] for points in batch['points']],
        'intrinsics': _stack(metas, 'cam_intrinsic'),
        'cam2ego': torch.linalg.inv(_stack(metas, 'lidar2cam').double()).float(),
        'frame2key': _stack(metas, 'curr2key'),
        'ida_mats': _stack(metas, 'ida_mats'),
        'speed': batch['speed'].float(),
        'target_point': batch['target_point'].float(),
        'command': batch['target_command'].argmax(1),
    }
    return inputs, _targets(batch)


def _stack(metas: list[list[dict[str, Tensor]]], key: str) -> Tensor:
    return torch.stack([torch.stack([frame[key] for frame in queue]) for queue in metas])


def _targets(batch: Mapping[str, Any]) -> dict[str, Any]:
    future_maps = [maps[FIRST_TEACHER_LEVEL] for maps in batch['future_grid_feature']]
    # the last of the K future actions has no prediction: step 0 is the current one
    future_alpha = batch['future_action_mu'][:-1]
    future_beta = batch['future_action_sigma'][:-1]
    return {
        'depth': batch['depth'].float(),
        'seg': batch['seg'].to(torch.uint8),
        'waypoints': batch['waypoints'].float(),
        'value': batch['value'].float(),
        'feature': batch['feature'].float(),
        'grid_feature': [level.float() for level in batch['grid_feature'][FIRST_TEACHER_LEVEL:]],
        'future_grid_feature': torch.stack(future_maps, 1).float(),
        'action_alpha': batch['action_mu'].float(),
        'action_beta': batch['action_sigma'].float(),
        'future_action_alpha': torch.stack(future_alpha, 1).float(),
        'future_action_beta': torch.stack(future_beta, 1).float(),
    }
