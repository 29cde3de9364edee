"""Moving average of the weights."""

from typing import Any

from mmengine.hooks import EMAHook

from thinktwice.registry import HOOKS


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """Keep a moving average of the weights, evaluate it and save it as the weights of the model.

    In a checkpoint, ``state_dict`` is the average, which evaluation and inference load;
    ``ema_state_dict`` holds the weights in training, with which ``--resume`` continues.
    mmengine's hook updates the average after each batch; this one after each optimizer
    step, so that gradient accumulation has no effect and skipped steps do not count.

    Args:
        momentum: Share of the new weights in the average, for example 0.0002.

    Raises:
        ValueError: The momentum is not between 0 and 1.
    """

    def __init__(self, momentum: float) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f'ema_momentum must lie between 0 and 1, got {momentum}')
        super().__init__(momentum=momentum, strict_load=True)
        self._is_restored = False

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the average of a resumed run.

        mmengine's hook would also load the weights of a new run, before the runner has checked them.
        """
        self._is_restored = bool(runner._resume) and 'ema_state_dict' in checkpoint
        if self._is_restored:
            super().after_load_checkpoint(runner, checkpoint)

    def before_train(self, runner: Any) -> None:
        """Start the average of a new run from its loaded or initial weights."""
        super().before_train(runner)
        if not self._is_restored:
            self.ema_model.module.load_state_dict(self.src_model.state_dict())
            runner.logger.info('the moving average of the weights starts from the current weights')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Update the average if the weights were updated."""
        wrapper = runner.optim_wrapper
        if wrapper.has_updated and not wrapper.is_accumulating:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
