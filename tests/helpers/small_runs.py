"""Short training runs of the small driving model, alone or as one rank of several."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from helpers.small_driver import inputs_for, small_driver, targets_for
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset, Sampler

from thinktwice.core import DrivingRunner
from thinktwice.distributed.launch import start_distributed, stop_distributed
from thinktwice.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS

NUM_SAMPLES = 8
MODELS.register_module(name='SmallDriver', module=small_driver)


@DATASETS.register_module()
class SmallDrives(Dataset):
    """Made-up samples; each has a share of labeled pixels of its own."""

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        self.samples = []
        for index in range(num_samples):
            torch.manual_seed(index)
            inputs, targets = inputs_for(batch=1), targets_for(batch=1)
            inputs['img'] = torch.randint(0, 255, inputs['img'].shape).to(torch.uint8)
            unknown = torch.rand(targets['depth'].shape) < index / num_samples
            targets['depth'][unknown] = 0
            targets['seg'][unknown] = 255
            metas = dict(sample_id=f'small/{index:04d}', index=index, requested_index=index, skipped=[])
            self.samples.append(dict(inputs=_first(inputs), targets=_first(targets), metas=metas))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> dict:
        return self.samples[key[0] if isinstance(key, tuple) else key]


def _first(group: dict[str, Any]) -> dict[str, Any]:
    lists = {'points': lambda clouds: clouds[0], 'grid_feature': lambda maps: [level[0] for level in maps]}
    return {key: lists.get(key, lambda value: value[0])(value) for key, value in group.items()}


@DATA_SAMPLERS.register_module()
class SameBatches(Sampler):
    """The same samples a step on any number of processes: rank k gets the k-th part of each batch."""

    def __init__(self, dataset: Dataset, batch_size: int, seed: int | None = None) -> None:
        self.length, self.batch_size, self.epoch = len(dataset), batch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def set_start(self, start: int) -> None:
        assert start == 0

    def __len__(self) -> int:
        return self.length // get_world_size()

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.epoch))
        shares = order.view(-1, get_world_size(), self.batch_size)[:, get_rank()]
        return iter(shares.flatten().tolist())


@HOOKS.register_module()
class BatchFree(Hook):
    """Lets no sample depend on its batch: BatchNorm by the running statistics, no dropout."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.model.modules():
            if isinstance(module, (_BatchNorm, nn.Dropout)):
                module.eval()


class Record(Hook):
    """Keeps losses of each step, gradients of the first update and the names of weights that moved."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.losses: list[dict[str, torch.Tensor]] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.reached: set[str] = set()

    def before_train(self, runner: Any) -> None:
        def keep(*unused: Any) -> None:
            named = runner.bare_model.named_parameters()
            gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
            self.gradients = self.gradients or gradients
            self.reached |= {name for name, g in gradients.items() if g.abs().sum() > 0 or not g.numel()}

        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.losses.append({name: value.detach().clone() for name, value in (outputs or {}).items()})


def train_small(
    folder: Path,
    batch_size: int,
    epochs: int,
    options: dict[str, Any] | None = None,
    batch_free: bool = True,
) -> dict[str, Any]:
    """Train; returns losses of each step, gradients of the first and the weights at the end.

    Args:
        folder: Work dir.
        batch_size: Samples a process and step.
        epochs: Epochs of ``NUM_SAMPLES`` samples.
        options: Further keys of the config; ``optim_wrapper`` is merged, ``losses`` are the model's.
        batch_free: Keep BatchNorm at its running statistics and switch dropout off.
    """
    is_rank = 'RANK' in os.environ
    launcher = 'pytorch' if is_rank else 'none'
    start_distributed(launcher)
    options = dict(options or {})
    losses = options.pop('losses', None)
    optimizer = dict(type='SGD', lr=1e-3)
    cfg = dict(
        model=dict(type='SmallDriver', **({'losses': losses} if losses else {})),
        work_dir=str(folder),
        launcher=launcher,
        default_scope='thinktwice',
        train_dataloader=dict(
            dataset=dict(type='SmallDrives'),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='SameBatches', batch_size=batch_size),
            collate_fn=dict(type='thinktwice.collate_samples'),
        ),
        train_cfg=dict(type='ResumableTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(
            type='GuardedOptimWrapper', optimizer=optimizer, **options.pop('optim_wrapper', {})
        ),
        randomness=dict(seed=0),
        default_hooks=dict(
            runtime_info=dict(type='ReducedInfoHook'),
            timer=dict(type='EvaluationTimerHook'),
            sampler_seed=None,
            checkpoint=None,
        ),
        custom_hooks=[
            dict(type='NonFiniteGuardHook'),
            dict(type='StepSetupHook'),
            *([dict(type='BatchFree')] if batch_free else []),
        ],
        **options,
    )
    torch.manual_seed(0)
    runner = DrivingRunner.from_cfg(Config(cfg))
    record = Record()
    runner.register_hook(record)
    runner.train()
    weights = {name: p.detach().clone() for name, p in runner.bare_model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in runner.bare_model.named_buffers()}
    stop_distributed()
    return dict(
        losses=record.losses,
        gradients=record.gradients,
        reached=record.reached,
        weights=weights,
        buffers=buffers,
    )
