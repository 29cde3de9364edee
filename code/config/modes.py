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


def chosen_mode(cfg: Config) -> str:
    """Name of the data mode; ``is_dev`` takes precedence over ``is_full``."""
    if cfg.get('is_dev', False):
        return 'dev'
    return 'full' if cfg.get('is_full', False) else 'default'


def _fill(node: Any, table: dict, path: str) -> None:
    for key, value in table.items():
        here = f'{path}.{key}' if path else key
        if key not in node:
            raise ConfigError(
                f'data_modes sets {here}, which the config does not have; add it there with the value None, '
                'or set data_modes=None'
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
    parts = dataset.get('datasets')
    inner |= {
        f'{path}.datasets.{i}': p for i, p in enumerate(parts if isinstance(parts, (list, tuple)) else ())
    }
    wrapped = {place: part for place, part in inner.items() if isinstance(part, dict)}
    if not wrapped and parts is None:
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
        if 'batch_size' in (loader.get('sampler') or {}):
            loader['sampler']['batch_size'] = loader['batch_size']
        for _, dataset in leaf_datasets(loader.get('dataset', {}), f'{name}.dataset'):
            if 'seed' in dataset and dataset['seed'] is None:
                dataset['seed'] = seed
