"""Pictures of what the model predicts, at each evaluation."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from thinktwice.core.visualization import draw_sample, record_sampling_points
from thinktwice.datasets import take_sample
from thinktwice.registry import HOOKS


@HOOKS.register_module()
class PicturesHook(Hook):
    """Log pictures of a few samples at each evaluation, see ``draw_sample``.

    The samples are spread over those that rank 0 evaluates: with one world size and batch size they are the
    same at each evaluation. They are drawn with the predictions that are evaluated, so the model runs no
    further pass. A model without ``waypoints`` in its predictions is not drawn.

    Args:
        count: Samples to draw; each takes about half a second of rank 0.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self._numbers: dict[int, list[tuple[int, int]]] = {}
        self._recording = ExitStack()

    def before_val_epoch(self, runner: Any) -> None:
        """Select the samples: the batch, the position in it and the number of the picture."""
        self._numbers = {}
        if not is_main_process():
            return
        loader = runner.val_dataloader
        places = np.linspace(0, len(loader) * loader.batch_size - 1, self.count).round().astype(int)
        for number, place in enumerate(places.tolist(), start=1):
            batch, position = divmod(place, loader.batch_size)
            self._numbers.setdefault(batch, []).append((position, number))

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Record where the model looks, if samples of this batch are drawn."""
        if batch_idx in self._numbers:
            self._record = self._recording.enter_context(record_sampling_points(runner.bare_model))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the samples of this batch."""
        if batch_idx not in self._numbers:
            return
        self._recording.close()
        for position, number in self._numbers[batch_idx]:
            index = min(position, len(outputs or ()) - 1)  # the last batch may be smaller
            if not outputs or not isinstance(outputs[index], Mapping) or 'waypoints' not in outputs[index]:
                continue
            sample, points = take_sample(data_batch, index), self._record.of_sample(index)
            picture = draw_sample(sample, outputs[index], runner.val_evaluator.metrics, points)
            runner.visualizer.add_image(f'val_sample_{number}', picture, step=runner.epoch)
