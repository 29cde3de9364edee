"""Moving average of the weights."""

from typing import Any

from mmengine.hooks import EMAHook

from thinktwice.registry import HOOKS


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """Keep a moving average of the weights; evaluate it, and save it as the model's weights.

    A checkpoint's ``state_dict`` is the average, what evaluation and inference load;
    the weights that are being trained lie beside it and are taken up by ``--resume``.
    mmengine's hook moves the average after each batch; this one after each update, so
    it does not depend on gradient accumulation, and skipped steps do not count.

    Args:
        momentum: Share of the new weights in the average, for example 0.0002.

    Raises:
        ValueError: The momentum is not between 0 and 1.
    """

    def __init__(self, momentum: float) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f'ema_momentum must lie between 0 and 1, got {momentum}')
        super().__init__(momentum=momentum, strict_load=True)
        self._skipped = 0

    def before_train(self, runner: Any) -> None:
        """Note how many steps have been skipped so far."""
        super().before_train(runner)
        self._skipped = runner.optim_wrapper.bad_steps

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the average if the weights were updated."""
        wrapper = runner.optim_wrapper
        is_skipped, self._skipped = wrapper.bad_steps > self._skipped, wrapper.bad_steps
        if not wrapper.is_accumulating and not is_skipped:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
