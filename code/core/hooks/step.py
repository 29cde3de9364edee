"""State to set before each training step and each evaluation."""

import hashlib
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, is_distributed
from mmengine.hooks import Hook

from thinktwice.registry import HOOKS


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """Seed of the random numbers of a step: a hash of the arguments, below 2**63."""
    digest = hashlib.blake2b(f'{seed}/{iteration}/{rank}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


@HOOKS.register_module()
class StepSetupHook(Hook):
    """Seed torch from (seed, iteration, rank) and pass the step to the data preprocessor.

    Dropout and augmentation on the device then do not depend on earlier steps, so
    a run resumes exactly without saved generator states. The data preprocessor
    counts optimizer updates, as the augmentation schedule does.
    """

    priority = 'HIGH'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch and set the step of the data preprocessor."""
        torch.manual_seed(step_seed(runner.seed, runner.iter, get_rank()))
        preprocessor = runner.bare_model.data_preprocessor
        if hasattr(preprocessor, 'set_iteration'):
            preprocessor.set_iteration(runner.iter // runner.optim_wrapper._accumulative_counts)


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Broadcast the buffers of rank 0 (BatchNorm statistics) before evaluation.

    They are not synchronized during training, as in the paper's runs; checkpoints
    contain those of rank 0.
    """

    def before_val_epoch(self, runner: Any) -> None:
        """Broadcast all buffers. Collective."""
        if is_distributed():
            for buffer in runner.bare_model.buffers():
                broadcast(buffer)
