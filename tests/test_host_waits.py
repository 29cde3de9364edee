"""Operations of a training step at which host and GPU wait for each other, counted on the CPU."""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.small_driver import inputs_for, small_driver, targets_for
from torch.utils._python_dispatch import TorchDispatchMode

import thinktwice.version

PACKAGE = Path(thinktwice.version.__file__).parent
#: a result whose size or value the host has to know, a constant copied from the host (lift_fresh)
WAITING = (
    *('_local_scalar_dense', 'nonzero', 'unique', 'masked_select', 'equal', 'repeat_interleave.Tensor'),
    *('bincount', '_linalg_check_errors', 'lift_fresh'),
)

#: two strided and two submanifold convolutions; two layers that look at the cameras
EXPECTED = {
    'voxelize.voxelize_batch': 2,
    'sparse_conv._pack_pairs': 4,
    'sparse_conv._strided_pairs': 2,
    'look_camera.attend_visible': 2,
    'image_tokens.levels': 1,
}


class HostWaits(TorchDispatchMode):
    """Counts waiting operations by module and function of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = str(operation).removeprefix('aten.')
        by_mask = name.startswith('index') and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if by_mask or name.startswith(WAITING):
            frames = [frame for frame in traceback.extract_stack() if PACKAGE in Path(frame.filename).parents]
            place = f'{Path(frames[-1].filename).stem}.{frames[-1].name}' if frames else 'elsewhere'
            self.places[place] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_waits_of_a_step_are_few_and_the_same_for_every_batch_size(batch_size: int) -> None:
    model = small_driver().train()
    inputs, targets = inputs_for(batch_size), targets_for(batch_size)
    with HostWaits() as waits:
        losses = model(inputs, targets, mode='loss')
        sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert waits.places == EXPECTED
