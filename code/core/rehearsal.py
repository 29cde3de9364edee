"""What a run does first, done before it starts: parts that do not fit end it there and not hours later."""

import copy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from thinktwice.errors import StartError, as_user_error


def first_batch(loader: DataLoader, size: int) -> Any:
    """A batch of a few samples from all over the dataset, read in this process.

    A copy of the dataset reads them: what it opens stays closed in the one that workers inherit.
    """
    assert loader.collate_fn is not None
    dataset: Any = copy.copy(loader.dataset)
    return loader.collate_fn(
        [dataset[index] for index in sorted({len(dataset) * i // size for i in range(size)})]
    )


def rehearse_losses(model: BaseModel, batch: Any) -> torch.Tensor:
    """Compute the sum of the losses of a batch, without a change of the model.

    Raises:
        StartError: With the part of the model that does not fit.
    """
    was_training = model.training
    model.eval()  # no statistics change and nothing is drawn
    try:
        with naming_part(model):
            data = model.data_preprocessor(batch, False)
            return model.parse_losses(model._run_forward(data, mode='loss'))[0]
    finally:
        model.train(was_training)


@torch.no_grad()
def rehearse_evaluation(model: BaseModel, loop: Any) -> None:
    """Predict one sample and let the metrics process it.

    The metrics keep nothing of it but ``metric_names``, which may depend on what the model predicts.

    Args:
        model: On its device.
        loop: The validation loop.

    Raises:
        StartError: With the part of the model that does not fit.
    """
    batch = first_batch(loop.dataloader, 1)
    was_training = model.training
    model.eval()
    try:
        with naming_part(model), torch.compiler.set_stance('force_eager'):
            predictions = model.val_step(batch)
    finally:
        model.train(was_training)
    try:
        evaluator = copy.deepcopy(loop.evaluator)
    except TypeError:  # a metric holds what has no copy, such as an open file
        return
    evaluator.process(data_samples=predictions, data_batch=batch)
    for metric, rehearsed in zip(loop.evaluator.metrics, evaluator.metrics, strict=True):
        if hasattr(metric, 'metric_names'):
            metric.metric_names = rehearsed.metric_names


@contextmanager
def naming_part(model: nn.Module) -> Iterator[None]:
    """Name the innermost part of a model that an error comes from, such as a layer of another width.

    Raises:
        StartError: In place of errors that are not written for users.
    """
    names = {id(part): name for name, part in model.named_modules() if name}

    def place() -> str:
        error = sys.exception()
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__ if error else None)]
        parts: list[Any] = [part for frame in frames if id(part := frame.f_locals.get('self')) in names]
        if not parts:
            return 'model'
        part = parts[-1]
        described = type(part).__name__ if list(part.children()) else repr(part)
        return f'model.{names[id(part)]}, {described}'

    with as_user_error(StartError, place):
        yield
