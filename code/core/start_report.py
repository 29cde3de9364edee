"""What a run says of itself before its first step."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def file_only(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger's messages off the terminal; its files get them."""
    consoles = [handler for handler in logger.handlers if not isinstance(handler, logging.FileHandler)]
    levels = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def describe_run(runner: Any) -> str:
    """Model size, samples, steps and devices of a run whose loops are built, in one line."""
    parameters = list(runner.bare_model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters) - trained
    loader, loop = runner.train_dataloader, runner.train_loop
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    evaluated = (
        f'{len(runner.val_loop.dataloader.dataset)} samples evaluated every {loop.val_interval} epochs'
        if runner._val_loop is not None
        else 'no evaluation'
    )
    mode = next((name for name in ('is_dev', 'is_full') if runner.cfg.get(name)), None)
    return '; '.join(
        [
            f'{trained:,} parameters' + (f' and {frozen:,} frozen' if frozen else ''),
            f'{len(loader.dataset)} training samples' + (f' ({mode})' if mode else ''),
            f'{len(loader)} steps an epoch of {loader.batch_size} x {runner.world_size} samples, '
            f'{loop.max_epochs} epochs',
            evaluated,
            f'{runner.world_size} process(es) on {device}',
        ]
    )
