"""Run the reference model on official weights and an official batch.

A file of stored values (``.npz``) holds whole arrays under ``infer/``, fingerprints under
``infer_fp/``, logged values under ``loss/`` and gradient norms under ``grad/``.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.conversion import model_shapes, official_to_ours
from thinktwice.release_2023.checkpoint.names import OFFICIAL_NAMES, official_entries

FINGERPRINT_VALUES = 64
FIRST_TEACHER_LEVEL = 2  # the two finer maps of the teacher are never read


def fill_model(
    model: nn.Module, fill_weights: Callable[[Mapping[str, Sequence[int]]], Mapping[str, Tensor]]
) -> nn.Module:
    """Load official weights made by a function into a model.

    Args:
        model: Usually that of ``configs/thinktwice_reference.py``.
        fill_weights: Takes official names with shapes, returns official names with tensors;
            entries that the config determines may be missing.

    Returns:
        The model in evaluation mode with all parameters and buffers loaded.

    Raises:
        CheckpointError: A weight of the model is missing, or a weight is not the model's.
    """
    weights = OrderedDict(fill_weights(official_entries()))
    converted = official_to_ours(weights, model_shapes(model))
    if not converted.is_complete:
        raise CheckpointError(f'the weights do not fit the model\n{converted.differences()}')
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def run_batch(model: BaseModel, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inference, losses and gradients of one official batch, under the names of a stored file.

    The model is set to evaluation mode, and its gradients are replaced.
    """
    inputs, targets = model.data_preprocessor.cast_data(from_official_batch(batch))
    model.eval()
    return {**_inference(model, inputs), **_losses_and_gradients(model, inputs, targets)}


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


def fingerprint(tensor: Tensor) -> np.ndarray:
    """64 evenly spaced values of a tensor, then mean, standard deviation and largest magnitude: (67,)."""
    flat = tensor.detach().float().reshape(-1)
    index = torch.linspace(0, len(flat) - 1, FINGERPRINT_VALUES).long()
    values = flat.double()
    summary = torch.stack([values.mean(), values.std(), values.abs().max()])
    return torch.cat([flat[index.to(flat.device)].double(), summary]).cpu().numpy()


def _inference(model: nn.Module, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The ``infer/`` and ``infer_fp/`` entries of one batch."""
    seen: dict[str, Any] = {}

    def remember(name: str) -> Any:
        return lambda module, args, output: seen.__setitem__(name, output)

    parts = ('img_encoder', 'lidar_encoder', 'measurement_encoder')
    handles = [getattr(model, part).register_forward_hook(remember(part)) for part in parts]
    try:
        with torch.no_grad():
            outputs = model(inputs, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    camera = seen['img_encoder']
    alpha, beta = outputs['pred_alpha'], outputs['pred_beta']
    whole = {
        'pred_speed': outputs['pred_speed'],
        'pred_value_traj': outputs['pred_value_traj'],
        'pred_value_ctrl': outputs['pred_value_ctrl'],
        'pred_wp': outputs['pred_waypoints'],
        'mu_branches': alpha[:, :, 0],
        'sigma_branches': beta[:, :, 0],
        'future_mu': alpha[:, :, 1:],
        'future_sigma': beta[:, :, 1:],
        'pred_features_traj': outputs['pred_features_traj'],
        'pred_features_ctrl': outputs['pred_features_ctrl'],
    }
    partial = {
        'refine_flattned_BEV_feature': outputs['refine_bev_vector'],
        'refine_BEV_feature': outputs['refine_bev_map'],
        'refine_future_BEV_feature': outputs['refine_future_bev_map'],
        'bev_feature': outputs['bev_map'],
        'cam_bev': camera.bev,
        'depth': camera.depth_logits,
        'seg': camera.seg_logits,
        'lidar': seen['lidar_encoder'],
        **{f'fpn{level}': feature for level, feature in enumerate(camera.fpn)},
    }
    entries = {f'infer/{name}': tensor.cpu().numpy() for name, tensor in whole.items()}
    entries |= {f'infer_fp/{name}': fingerprint(tensor) for name, tensor in partial.items()}
    entries['infer_fp/measurement'] = seen['measurement_encoder'].cpu().numpy()
    return entries


def _losses_and_gradients(
    model: nn.Module, inputs: dict[str, Any], targets: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The ``loss/`` and ``grad/`` entries of one batch, gradients of the summed loss."""
    model.zero_grad(set_to_none=True)
    values = model(inputs, targets, mode='loss')
    total = sum(value.mean() for name, value in values.items() if 'loss' in name)
    total.backward()
    entries = {f'loss/{name}': np.asarray(value.detach().mean().item()) for name, value in values.items()}
    entries['loss/loss'] = np.asarray(total.item())
    norms = {
        OFFICIAL_NAMES.to_official(name): parameter.grad.detach().double().norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    entries['grad/names'] = np.asarray(list(norms), dtype=np.str_)
    entries['grad/norms'] = np.asarray(list(norms.values()))
    return entries
