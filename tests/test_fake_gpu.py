"""Losses of every shipped config on the GPU, without a GPU.

FakeTensorMode follows shapes, dtypes and devices without computing, and raises where devices are mixed.
Results whose size or value depends on data are replaced by fixed ones.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from thinktwice.config.load import load_config
from thinktwice.model_code.ops.sparse_conv import get_indice_pairs_3d_forward, indice_conv_backward
from thinktwice.registry import MODELS

LEAVES = sorted((Path(__file__).resolve().parents[1] / 'configs').glob('*.py'))
MINITOWN = next(path for path in LEAVES if path.stem == 'thinktwice_minitown')
BATCH, FOUND = 2, 5
aten = torch.ops.aten


class FixedCounts(TorchDispatchMode):
    """Replaces the number of elements found by a search, and numbers read by the host, by a fixed one.

    The kernel of a GRU cell, which asks for a driver, is replaced by its shapes.
    """

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is aten.nonzero.default:
            return args[0].new_zeros(FOUND, args[0].dim(), dtype=torch.int64)
        if operation is aten._local_scalar_dense.default:
            return FOUND if not args[0].is_floating_point() else float(FOUND)
        if operation is aten._thnn_fused_gru_cell.default:
            return torch.empty_like(args[2]), torch.empty_like(args[0])
        return operation(*args, **(kwargs or {}))


def on_gpu(value: Any) -> Any:
    """Tensors of the same shape on the GPU, within the mode."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device='cuda')
    if isinstance(value, dict):
        return {name: on_gpu(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [on_gpu(entry) for entry in value]
    return value


def move_to_gpu(model: torch.nn.Module) -> None:
    """Replace parameters and buffers, within the mode."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = torch.nn.Parameter(on_gpu(parameter), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = on_gpu(buffer)


def batch_of(cfg: Any) -> dict[str, Any]:
    """Inputs and targets in the shapes of a config."""
    (H, W), T, N, K = cfg.image_size, cfg.num_frames, cfg.num_cameras, cfg.horizon
    maps = [(32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2)]
    inputs = {
        'img': torch.empty(BATCH, T, N, 3, H, W, dtype=torch.uint8),
        'points': [torch.empty(100, 5), torch.empty(80, 5)],
        'intrinsics': torch.empty(BATCH, T, N, 3, 3),
        'cam2ego': torch.empty(BATCH, T, N, 4, 4),
        'frame2key': torch.empty(BATCH, T, 4, 4),
        'ida_mats': torch.empty(BATCH, T, N, 4, 4),
        'speed': torch.empty(BATCH),
        'target_point': torch.empty(BATCH, 2),
        'command': torch.empty(BATCH, dtype=torch.int64),
    }
    targets = {
        'depth': torch.empty(BATCH, N, H, W),
        'seg': torch.empty(BATCH, N, H, W, dtype=torch.uint8),
        'waypoints': torch.empty(BATCH, K, 2),
        'value': torch.empty(BATCH),
        'feature': torch.empty(BATCH, 256),
        'grid_feature': [torch.empty(BATCH, *shape) for shape in maps],
        'future_grid_feature': torch.empty(BATCH, K, *maps[0]),
        'action_alpha': torch.empty(BATCH, 2),
        'action_beta': torch.empty(BATCH, 2),
        'future_action_alpha': torch.empty(BATCH, K - 1, 2),
        'future_action_beta': torch.empty(BATCH, K - 1, 2),
    }
    metas = [{'seed': b} for b in range(BATCH)]
    return {'inputs': inputs, 'targets': targets, 'metas': metas}


def losses_on_gpu(
    path: Path, dtype: torch.dtype | None = None, slip: bool = False
) -> dict[str, torch.Tensor]:
    """The losses of a config; with a slip one part adds a tensor that was made without a device."""
    cfg = load_config(str(path))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).train()  # pretrained weights are not loaded
    model.data_preprocessor._device = torch.device('cuda')
    if slip:
        model.bev_fusion.register_forward_hook(lambda module, args, bev: bev + torch.zeros(bev.shape[1:]))
    with FakeTensorMode(), FixedCounts():
        move_to_gpu(model)
        batch = model.data_preprocessor(on_gpu(batch_of(cfg)))
        with torch.autocast('cuda', dtype=dtype, enabled=dtype is not None):
            return model(**batch, mode='loss')


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_every_loss_is_computed_on_the_gpu_in_float32(
    path: Path, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a GPU autocast disables itself
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    losses = losses_on_gpu(path, dtype)
    configured = [loss for loss in load_config(str(path)).model.losses.values() if loss]
    assert len(losses) > 1.25 * len(configured)  # several terms in many
    for name, value in losses.items():
        assert (value.device.type, value.dtype) == ('cuda', torch.float32), name


def test_a_tensor_made_without_a_device_is_noticed() -> None:
    with pytest.raises(RuntimeError, match='cuda:0 and cpu'):
        losses_on_gpu(MINITOWN, slip=True)


def test_the_backward_pass_of_sparse_convolutions_stays_on_the_gpu() -> None:
    # autograd asks for a real device, so that a backward pass written by hand is called by itself
    with FakeTensorMode(), FixedCounts():
        sites = torch.empty(20, 4, dtype=torch.int32, device='cuda')
        features, kernel = torch.empty(20, 3, device='cuda'), torch.empty(3, 3, 3, 3, 6, device='cuda')
        geometry = ([1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0])
        found = get_indice_pairs_3d_forward(sites, 2, [9, 9, 9], [9, 9, 9], [3, 3, 3], *geometry, 0, 0)
        gradient = torch.empty(len(found[0]), 6, device='cuda')
        gradients = indice_conv_backward(features, kernel, gradient, *found[1:])
    assert [value.device.type for value in gradients] == ['cuda', 'cuda']
    assert [value.shape for value in gradients] == [features.shape, kernel.shape]
