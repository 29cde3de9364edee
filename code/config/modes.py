"""What ``is_dev`` and ``is_full`` select, resolved after all overrides.

A config holds a table ``data_modes`` with the entries ``default``, ``full`` and
``dev``; each is a tree of config values. Wherever the config itself has None,
the value of the selected mode is filled in; explicit values are kept.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from thinktwice.errors import ConfigError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
COUNTS = {
    **{f'{loader}.batch_size': 1 for loader in LOADERS},
    **{f'{loader}.num_workers': 0 for loader in LOADERS},
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'optim_wrapper.accumulative_counts': 1,
}
"""Keys that must be whole numbers, and their lowest values."""
OPTIONAL = ('train_cfg.max_iters',)
"""Those of them that may also be None."""


def chosen_mode(cfg: Config) -> str:
    """Name of the data mode; ``is_dev`` takes precedence over ``is_full``.

    Raises:
        ConfigError: One of the switches is not a bool.
    """
    for name in ('is_dev', 'is_full'):
        if cfg.get(name, False) not in (True, False):
            raise ConfigError(f'{name} must be True or False, got {cfg[name]!r}')
    if cfg.get('is_dev', False):
        return 'dev'
    return 'full' if cfg.get('is_full', False) else 'default'


def _fill(node: Any, table: dict, path: str) -> None:
    for key, value in table.items():
        here = f'{path}.{key}' if path else key
        if key not in node:
            raise ConfigError(
                f'data_modes sets {here}, which the config does not have; add it there with the value None'
            )
        if node[key] is None:
            node[key] = value
        elif key == 'split':
            continue  # one value: a split of the config is not completed from another one
        elif isinstance(value, dict) and isinstance(node[key], dict):
            inner = leaf_datasets(node[key], here) if key == 'dataset' else [(here, node[key])]
            for place, part in inner:
                _fill(part, value, place)


def leaf_datasets(dataset: dict, path: str) -> Iterator[tuple[str, dict]]:
    """Yield path and config of a dataset, or those of the datasets in a wrapper such as ``ConcatDataset``."""
    inner = {f'{path}.dataset': dataset.get('dataset')}
    inner |= {f'{path}.datasets.{i}': part for i, part in enumerate(dataset.get('datasets') or ())}
    wrapped = {place: part for place, part in inner.items() if isinstance(part, dict)}
    if not wrapped:
        yield path, dataset
    for place, part in wrapped.items():
        yield from leaf_datasets(part, place)


def resolve_modes(cfg: Config) -> None:
    """Fill the None values of ``cfg`` from the table of the chosen mode, in place."""
    mode = chosen_mode(cfg)
    table = cfg.get('data_modes')
    if table is None:
        if mode != 'default':
            raise ConfigError(f'{cfg.filename} has no data_modes, so is_{mode}=True would change nothing')
        return
    if mode not in table:
        raise ConfigError(f'data_modes of {cfg.filename} has no entry {mode!r}, only {sorted(table)}')
    _fill(cfg, table[mode], '')


def check_counts(cfg: Config) -> None:
    """Refuse numbers of samples, workers, epochs or iterations that cannot be counted to.

    Raises:
        ConfigError: One of ``COUNTS`` is not a whole number or is too low.
    """
    for path, lowest in COUNTS.items():
        part, key = path.split('.')
        node = cfg.get(part)
        if not isinstance(node, dict) or key not in node or (node[key] is None and path in OPTIONAL):
            continue
        if type(node[key]) is not int or node[key] < lowest:
            raise ConfigError(f'{path} must be a whole number >= {lowest}, got {node[key]!r}')


def resolve_loaders(cfg: Config) -> None:
    """Make each loader consistent with its number of workers and batch size, in place.

    Without workers torch accepts neither persistent workers nor prefetching. The
    training sampler splits samples among ranks by the loader's batch size, and the
    dataset derives its augmentation from the seed of the run.
    """
    seed = cfg.get('randomness', {}).get('seed')
    for name in LOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if not loader.get('num_workers', 0):
            loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)
        if 'batch_size' in loader.get('sampler', {}):
            loader['sampler']['batch_size'] = loader['batch_size']
        for _, dataset in leaf_datasets(loader.get('dataset', {}), f'{name}.dataset'):
            if 'seed' in dataset and dataset['seed'] is None:
                dataset['seed'] = seed
