"""What has to be set before each training step."""

import hashlib
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, is_distributed
from mmengine.hooks import Hook

from thinktwice.registry import HOOKS


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """Seed of a step's random numbers: a hash of its arguments, below 2**63."""
    digest = hashlib.blake2b(f'{seed}/{iteration}/{rank}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


@HOOKS.register_module()
class StepSetupHook(Hook):
    """Tell the model the global step and draw its random numbers from (seed, step, rank).

    Dropout and augmentation on the device then do not depend on what ran before,
    so a resumed run needs no state of random generators to be exact. The step
    counts optimiser updates, as the augmentation schedule does.
    """

    priority = 'HIGH'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch and hand the step to the data preprocessor."""
        torch.manual_seed(step_seed(runner.seed, runner.iter, get_rank()))
        preprocessor = runner.bare_model.data_preprocessor
        if hasattr(preprocessor, 'set_iteration'):
            preprocessor.set_iteration(runner.iter // runner.optim_wrapper._accumulative_counts)


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Give all processes the buffers (BatchNorm statistics) of the first one before evaluation.

    They are not exchanged during training, as in the paper's runs; the first
    process' are the ones that checkpoints hold.
    """

    def before_val_epoch(self, runner: Any) -> None:
        """Broadcast all buffers. Collective."""
        if is_distributed():
            for buffer in runner.bare_model.buffers():
                broadcast(buffer)
