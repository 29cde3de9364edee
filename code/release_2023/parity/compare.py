"""Run a model on one batch and compare everything it computes with stored values.

A file of stored values (``.npz``) holds whole arrays under ``infer/``, fingerprints under
``infer_fp/``, logged values under ``loss/`` and gradient norms under ``grad/``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinktwice.release_2023.checkpoint.names import NameMap

FINGERPRINT_VALUES = 64
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Deviation:
    """Difference of one entry from its stored value.

    Attributes:
        entry: Name in the stored file.
        error: Largest difference, relative to the largest stored magnitude.
        detail: Why the entry could not be compared, if so.
    """

    entry: str
    error: float
    detail: str = ''


def fingerprint(tensor: Tensor) -> np.ndarray:
    """64 evenly spaced values of a tensor, then mean, standard deviation and largest magnitude: (67,)."""
    flat = tensor.detach().float().reshape(-1)
    index = torch.linspace(0, len(flat) - 1, FINGERPRINT_VALUES).long()
    values = flat.double()
    summary = torch.stack([values.mean(), values.std(), values.abs().max()])
    return torch.cat([flat[index.to(flat.device)].double(), summary]).cpu().numpy()


def compare(stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]) -> list[Deviation]:
    """Compare every stored entry with the computed one, worst first.

    Gradient norms are compared by parameter name; parameters on one side only are
    deviations of their own.

    Args:
        stored: Content of a stored file.
        computed: The same entries, from :func:`collect`.

    Returns:
        One deviation per entry. An entry that is missing, of another shape or not finite
        has an infinite error.
    """
    deviations = [
        _compare_entry(name, np.asarray(stored[name]), computed.get(name))
        for name in stored
        if name not in ('grad/names', 'grad/norms')
    ]
    if 'grad/names' in stored:
        deviations += _compare_gradients(stored, computed)
    return sorted(deviations, key=lambda deviation: -deviation.error)


def _compare_entry(name: str, stored: np.ndarray, computed: np.ndarray | None) -> Deviation:
    if computed is None:
        return Deviation(name, float('inf'), 'not computed')
    if stored.shape != computed.shape:
        return Deviation(name, float('inf'), f'shape {computed.shape}, stored {stored.shape}')
    if not np.isfinite(computed).all():
        return Deviation(name, float('inf'), 'not finite')
    scale = max(float(np.abs(stored).max()), float(np.finfo(np.float32).tiny))
    return Deviation(name, float(np.abs(computed - stored).max()) / scale)


def _compare_gradients(
    stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]
) -> list[Deviation]:
    wanted = dict(zip(stored['grad/names'].tolist(), stored['grad/norms'].tolist(), strict=True))
    found = dict(zip(computed['grad/names'].tolist(), computed['grad/norms'].tolist(), strict=True))
    deviations = [
        Deviation(f'grad/{name}', float('inf'), 'has no gradient here')
        for name in wanted.keys() - found.keys()
    ]
    deviations += [
        Deviation(f'grad/{name}', float('inf'), 'has a gradient here, none stored')
        for name in found.keys() - wanted.keys()
    ]
    common = [name for name in wanted if name in found]
    aligned = (np.array([values[name] for name in common]) for values in (wanted, found))
    deviations.append(_compare_entry('grad/norms', *aligned))
    return deviations


def relative_gradient_errors(
    stored: Mapping[str, np.ndarray], computed: Mapping[str, np.ndarray]
) -> list[Deviation]:
    """Error of each gradient norm relative to itself, worst first (stricter than :func:`compare`)."""
    found = dict(zip(computed['grad/names'].tolist(), computed['grad/norms'].tolist(), strict=True))
    deviations = []
    for name, norm in zip(stored['grad/names'].tolist(), stored['grad/norms'].tolist(), strict=True):
        if name in found:
            scale = max(norm, np.finfo(np.float32).tiny)
            deviations.append(Deviation(f'grad/{name}', abs(found[name] - norm) / scale))
    return sorted(deviations, key=lambda deviation: -deviation.error)


def collect(
    model: nn.Module, inputs: dict[str, Any], targets: dict[str, Any], name_map: NameMap
) -> dict[str, np.ndarray]:
    """Run inference, losses and gradients of one batch under the official names.

    Args:
        model: An ``EncoderDecoder`` of the reference config; set to evaluation mode
            here, its gradients are replaced.
        inputs: Preprocessed inputs of one batch, images normalized.
        targets: Targets of the batch.
        name_map: Names of our parameters in the official checkpoint.

    Returns:
        Entries of a stored file.
    """
    model.eval()
    return {
        **collect_inference(model, inputs),
        **collect_losses_and_gradients(model, inputs, targets, name_map),
    }


def collect_inference(model: nn.Module, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
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


def collect_losses_and_gradients(
    model: nn.Module, inputs: dict[str, Any], targets: dict[str, Any], name_map: NameMap
) -> dict[str, np.ndarray]:
    """The ``loss/`` and ``grad/`` entries of one batch, gradients of the summed loss."""
    model.zero_grad(set_to_none=True)
    values = model(inputs, targets, mode='loss')
    total = sum(value.mean() for name, value in values.items() if 'loss' in name)
    total.backward()
    entries = {f'loss/{name}': np.asarray(value.detach().mean().item()) for name, value in values.items()}
    entries['loss/loss'] = np.asarray(total.item())
    norms = {
        _official(name_map, name): parameter.grad.detach().double().norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    entries['grad/names'] = np.asarray(list(norms), dtype=np.str_)
    entries['grad/norms'] = np.asarray(list(norms.values()))
    return entries


def _official(name_map: NameMap, name: str) -> str:
    official = name_map.to_official(name)
    if official is None:
        raise ValueError(f'parameter {name} has no name in the official checkpoint')
    return official
