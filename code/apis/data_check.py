"""A look at the data before anything slow is built."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from thinktwice.command_line import setup_phase
from thinktwice.errors import ConfigError
from thinktwice.registry import DATASETS


def check_datasets(cfg: Config, loaders: Sequence[str] = ('train_dataloader', 'val_dataloader')) -> None:
    """Build the data sets of a config once, so that missing data is said first and alone.

    Args:
        cfg: A config from ``load_config``.
        loaders: Keys of the loaders whose data sets are looked at; absent ones are passed over.

    Raises:
        FileNotFoundError: There is no data where the config says.
        ConfigError: A split is empty, or an argument is wrong.
    """
    init_default_scope(cfg.default_scope)
    with _quiet():
        for loader in loaders:
            if cfg.get(loader):
                try:
                    setup_phase(partial(DATASETS.build, cfg[loader].dataset))
                except ConfigError as error:
                    raise ConfigError(f'{loader}.dataset: {error}') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: the run builds the data sets again, and says them once and in its log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
