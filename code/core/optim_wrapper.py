"""Optimizer wrapper: gradient accumulation, mixed precision, skipping of non-finite steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from thinktwice.config.annotations import check_value, parameters_of
from thinktwice.config.keys import ParamwiseKeys
from thinktwice.errors import ConfigError
from thinktwice.registry import OPTIM_WRAPPERS, OPTIMIZERS

AMP_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
SMALLEST_LOSS_SCALE = 1.0
MULTIPLIERS = ('lr_mult', 'decay_mult')
"""Keys of an entry of ``paramwise_cfg.custom_keys`` beside the arguments of the optimizer."""


def check_paramwise(options: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse what mmengine ignores in ``paramwise_cfg``.

    Args:
        options: The config's ``optim_wrapper``; one with a ``constructor`` of its own is not checked.
        model: The model to be trained.

    Raises:
        ConfigError: A key is unknown, would have no effect, or has a value of the wrong type.
    """
    where, paramwise = 'optim_wrapper.paramwise_cfg', options.get('paramwise_cfg') or {}
    if 'constructor' in options:
        return
    check_value(where, paramwise, ParamwiseKeys)
    known = ParamwiseKeys.__annotations__
    if unknown := sorted(paramwise.keys() - known.keys()):
        raise ConfigError(f'{where} has no key {unknown[0]!r}; known are {", ".join(known)}')
    if 'dcn_offset_lr_mult' in paramwise and not any(map(_is_dcn_of_mmcv, model.modules())):
        raise ConfigError(
            f'{where}.dcn_offset_lr_mult has no effect: the model has no deformable convolution of mmcv. For '
            "those of this package use custom_keys={'conv_offset': dict(lr_mult=...)}"
        )
    names = [name for name, _ in model.named_parameters()]
    optimizer = OPTIMIZERS.get(str((options.get('optimizer') or {}).get('type')))
    settings, takes_any = parameters_of(optimizer) if optimizer else ({}, True)
    for key, entry in paramwise.get('custom_keys', {}).items():
        if not any(key in name for name in names):
            parts = ', '.join(name for name, _ in model.named_children())
            raise ConfigError(
                f'{where}.custom_keys: {key!r} is in no parameter name; parts of the model: {parts}'
            )
        for name, value in entry.items():
            place = f'{where}.custom_keys[{key!r}].{name}'
            if name in MULTIPLIERS:
                check_value(place, value, float)
            elif name not in settings and not takes_any:
                known_names = ', '.join((*MULTIPLIERS, *(name for name in settings if name != 'params')))
                raise ConfigError(f'{place}: no such option; known are {known_names}')


def _is_dcn_of_mmcv(module: nn.Module) -> bool:
    return type(module).__module__.startswith('mmcv.ops') and 'DeformConv2d' in type(module).__name__


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """Update the parameters only if loss and gradient are finite on all ranks.

    A step is bad if the loss of any rank, or the (already averaged) gradient,
    contains a NaN or an infinity. Its gradient is dropped, and ``bad_steps`` and
    ``bad_steps_in_a_row`` are incremented; ``NonFiniteGuardHook`` decides when to
    stop the run. With float16 an overflowing gradient of a finite loss only lowers
    the loss scale, as usual, down to a scale of 1.

    Accumulation groups the batches of one epoch. The last group of an epoch may be
    smaller, and its gradient is the mean over its own batches, so no gradient is
    pending when an epoch ends and a checkpoint is written.

    Args:
        optimizer: The wrapped optimizer.
        accumulative_counts: Batches whose gradients are averaged before one update.
        clip_grad: Arguments of ``clip_grad_norm_``, for example ``dict(max_norm=100)``.
        amp_dtype: None (float32), ``'bfloat16'`` or ``'float16'`` (with loss scaling).
        loss_scale: Initial scale of float16's dynamic loss scaling.

    Attributes:
        grad_norm: 0-d tensor, gradient norm of the last update before clipping, or None.
        bad_steps: Number of skipped updates; saved and resumed.
        bad_steps_in_a_row: Number of skipped updates since the last good one.
        overflows: Number of updates skipped to lower the loss scale; saved and resumed.
        has_updated: Whether the last call of ``step`` changed the parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
        amp_dtype: str | None = None,
        loss_scale: float = 65536.0,
    ) -> None:
        if amp_dtype is not None and amp_dtype not in AMP_DTYPES:
            raise ValueError(
                f'optim_wrapper.amp_dtype must be None or one of {list(AMP_DTYPES)}, got {amp_dtype!r}'
            )
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.amp_dtype = amp_dtype
        self.grad_norm: Tensor | None = None
        self.bad_steps = 0
        self.bad_steps_in_a_row = 0
        self.overflows = 0
        self.has_updated = False
        self._loss_is_bad: Tensor | None = None
        self._batches_in_group, self._group_size = 0, accumulative_counts
        device = optimizer.param_groups[0]['params'][0].device.type
        self._device_type = device
        self.loss_scaler = torch.amp.GradScaler(device, init_scale=loss_scale, enabled=amp_dtype == 'float16')

    def place_batch(self, index: int, num_batches: int) -> None:
        """Set which batch of the epoch comes next, so that groups of batches end with the epoch.

        Args:
            index: Index of the batch in its epoch.
            num_batches: Number of batches that this epoch trains on.
        """
        if self._batches_in_group == 0:
            self._group_size = min(self._accumulative_counts, num_batches - index)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set the batch count of a resumed run; groups depend on ``place_batch`` only."""
        self._inner_count, self._max_counts = init_counts, max_counts

    def should_sync(self) -> bool:
        """Whether the next backward pass is the last of its group and exchanges gradients."""
        return self._batches_in_group + 1 >= self._group_size

    def should_update(self) -> bool:
        """Whether the group is complete."""
        return self._batches_in_group >= self._group_size

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Divide by the size of the group."""
        return loss / self._group_size

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast in the chosen precision; no gradient exchange while accumulating."""
        dtype = AMP_DTYPES.get(self.amp_dtype or '')
        with (
            super().optim_context(model),
            torch.autocast(self._device_type, dtype=dtype, enabled=dtype is not None),
        ):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backpropagate, recording whether the loss was finite."""
        is_bad = ~torch.isfinite(loss.detach())
        self._loss_is_bad = is_bad if self._loss_is_bad is None else self._loss_is_bad | is_bad
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1
        self._batches_in_group += 1

    def step(self, **kwargs: Any) -> None:
        """Clip and update, or drop the gradient if it or the loss of any rank is not finite. Collective."""
        if self._loss_is_bad is None:
            raise RuntimeError('step was called without a backward pass before it')
        self._batches_in_group = 0
        self.loss_scaler.unscale_(self.optimizer)
        self.grad_norm = self._clip()
        flags = torch.stack([self._loss_is_bad, ~torch.isfinite(self.grad_norm)]).to(torch.int32)
        all_reduce(flags, op='max')
        loss_is_bad, gradient_is_bad = flags.tolist()
        self._loss_is_bad = None
        self.has_updated = not (loss_is_bad or gradient_is_bad)
        if self.has_updated:
            self.bad_steps_in_a_row = 0
            self.loss_scaler.step(self.optimizer, **kwargs)
        else:
            self._count(is_overflow=not loss_is_bad and self._scale() > SMALLEST_LOSS_SCALE)
            self.optimizer.zero_grad()
        self.loss_scaler.update()
        if self._scale() < SMALLEST_LOSS_SCALE:  # with lower scales gradients underflow
            self.loss_scaler.update(SMALLEST_LOSS_SCALE)

    def _scale(self) -> float:
        """The loss scale; without loss scaling the smallest one."""
        return self.loss_scaler.get_scale() if self.loss_scaler.is_enabled() else SMALLEST_LOSS_SCALE

    def _count(self, is_overflow: bool) -> None:
        if is_overflow:
            self.overflows += 1
        else:
            self.bad_steps += 1
            self.bad_steps_in_a_row += 1

    def _clip(self) -> Tensor:
        """Clip the gradients if ``clip_grad`` is set.

        Returns:
            0-d L2 norm (or the norm that ``clip_grad`` names) before clipping.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        with_gradient = [p for p in parameters if p.grad is not None]
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            return torch.nn.utils.clip_grad_norm_(with_gradient, **self.clip_grad_kwargs)
        norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient])
        if self.clip_grad_kwargs:
            self.clip_func(with_gradient, **self.clip_grad_kwargs)
        return norm

    @property
    def is_accumulating(self) -> bool:
        """Whether gradients are pending, so that no checkpoint can be written."""
        return self._batches_in_group > 0

    def state_dict(self) -> dict:
        """Optimizer state, loss scale and the number of skipped steps."""
        state = super().state_dict()
        state['loss_scaler'] = self.loss_scaler.state_dict()
        state['bad_steps'] = [self.bad_steps, self.bad_steps_in_a_row]
        state['overflows'] = self.overflows
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of ``state_dict``; states saved by mmengine, without the extra entries, are accepted."""
        state = dict(state_dict)
        scale = state.pop('loss_scaler', None)
        if scale and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scale)
        self.bad_steps, self.bad_steps_in_a_row = state.pop('bad_steps', [0, 0])
        self.overflows = state.pop('overflows', 0)
        super().load_state_dict(state)
