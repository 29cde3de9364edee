"""A dataset and a model that train in milliseconds, registered for configs of tests."""

import time

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from thinktwice.registry import DATASETS, FUNCTIONS, MODELS


@DATASETS.register_module()
class ToyPlans(Dataset):
    """Samples whose waypoints follow from their speed; sample ``bad_index`` holds NaN."""

    def __init__(self, num_samples: int = 24, bad_index: int | None = None, delay: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.speed = torch.rand(num_samples, generator=generator) * 10
        self.bad_index = bad_index
        self.delay = delay  # seconds a sample

    def __len__(self) -> int:
        return len(self.speed)

    def __getitem__(self, key) -> dict:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        speed = self.speed[index]
        time.sleep(self.delay)
        if index == self.bad_index:
            speed = speed * float('nan')
        ahead = self.speed[index] * torch.arange(1, 5) * 0.5
        waypoints = torch.stack([ahead, 0.1 * ahead], dim=-1)
        return dict(
            inputs=dict(speed=speed),
            targets=dict(
                waypoints=waypoints,
                action_alpha=torch.tensor([2.0, 2.0]),
                action_beta=torch.tensor([2.0, 3.0]),
            ),
            metas=dict(
                sample_id=f'toy/{index:04d}',
                index=index,
                requested_index=index,
                epoch=epoch,
                command_replaced=False,
                skipped=[],
            ),
        )


@FUNCTIONS.register_module()
def collate_toy(samples: list[dict]) -> dict:
    def stack(group: str) -> dict[str, Tensor]:
        return {key: torch.stack([sample[group][key] for sample in samples]) for key in samples[0][group]}

    return dict(
        inputs=stack('inputs'), targets=stack('targets'), metas=[sample['metas'] for sample in samples]
    )


@MODELS.register_module()
class ToyPlanner(BaseModel):
    """Two layers with dropout and BatchNorm from speed to waypoints."""

    def __init__(
        self, width: int = 8, dropout: float = 0.1, with_norm: bool = True, data_preprocessor=None
    ) -> None:
        super().__init__(data_preprocessor)
        self.layers = nn.Sequential(
            nn.Linear(1, width),
            nn.BatchNorm1d(width) if with_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 8),
        )

    def forward(self, inputs, targets=None, metas=None, mode='tensor'):
        waypoints = self.layers(inputs['speed'][:, None]).reshape(-1, 4, 2)
        if mode == 'loss':
            error = waypoints - targets['waypoints']
            return dict(
                wp_loss=error.square().mean(), longitudinal_offset=error[..., 0].abs().mean().detach()
            )
        if mode == 'predict':
            return [dict(waypoints=plan, action=plan.new_zeros(2)) for plan in waypoints]
        return waypoints
