"""In each shipped config every parameter gets a gradient, so DDP never has to look for unused ones."""

from pathlib import Path

import pytest
import torch
from helpers.small_encoders import image_batch, point_cloud
from mmengine.registry import init_default_scope

from thinktwice.config.load import load_config
from thinktwice.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
IMAGE_SIZE = (64, 128)
BATCH = 1  # the hardest case: layers that normalize over samples see one


def batch_for(cfg) -> tuple[dict, dict]:
    frames, cameras, steps = cfg.num_frames, cfg.num_cameras, cfg.horizon
    shapes = ((32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2))
    inputs = {
        **image_batch(BATCH, frames, cameras, IMAGE_SIZE),
        'points': [point_cloud(3000)],
        'speed': 8 * torch.rand(BATCH),
        'target_point': 20 * torch.rand(BATCH, 2),
        'command': torch.randint(0, 6, (BATCH,)),
    }
    positive = {name: 1 + torch.rand(BATCH, 2) for name in ('action_alpha', 'action_beta')}
    future = {f'future_{name}': 1 + torch.rand(BATCH, steps - 1, 2) for name in positive}
    targets = {
        'depth': 40 * torch.rand(BATCH, cameras, *IMAGE_SIZE),
        'seg': torch.randint(0, cfg.num_seg_classes, (BATCH, cameras, *IMAGE_SIZE)).to(torch.uint8),
        'waypoints': torch.cumsum(3 * torch.rand(BATCH, steps, 2), 1),
        'value': torch.randn(BATCH),
        'feature': torch.randn(BATCH, 256),
        'grid_feature': [torch.randn(BATCH, *shape) for shape in shapes],
        'future_grid_feature': torch.randn(BATCH, steps, *shapes[0]),
        **positive,
        **future,
    }
    return inputs, targets


@pytest.mark.parametrize(
    'name',
    [
        'thinktwice_minitown',
        pytest.param('thinktwice', marks=pytest.mark.slow),
        pytest.param('thinktwice_reference', marks=pytest.mark.slow),
    ],
)
def test_every_parameter_of_a_shipped_config_gets_a_gradient(name):
    cfg = load_config(str(CONFIGS / f'{name}.py'))
    cfg.model.img_encoder.backbone.init_cfg = None  # no download
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for parameter in model.parameters():  # a factor that starts at zero would hide what lies behind it
        if not parameter.abs().sum() > 0:
            torch.nn.init.normal_(parameter, std=0.1)
    losses = model(*batch_for(cfg), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    frozen = [key for key, p in model.named_parameters() if not p.requires_grad]
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    zero = [key for key, p in model.named_parameters() if p.grad is not None and not p.grad.abs().sum() > 0]
    assert (without, zero) == ([], [])
    assert bool(frozen) == (name == 'thinktwice_reference')
