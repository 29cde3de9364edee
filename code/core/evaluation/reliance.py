"""Reliance on inputs: the metrics again with one input of every sample taken from another drive."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from thinktwice.errors import ConfigError
from thinktwice.tables import format_table

CAMERAS = ('img', 'intrinsics', 'cam2ego', 'ida_mats')  # images and the cameras that took them
TARGET = ('target_point', 'command')
KEYS = {
    'images': CAMERAS,
    'lidar': ('points',),
    'images_and_lidar': (*CAMERAS, 'points'),
    'speed': ('speed',),
    'target_point_and_command': TARGET,
    'history': (*CAMERAS, 'frame2key'),
}
"""Keys of the inputs that are exchanged together."""
TITLES = {
    'images': 'images',
    'lidar': 'LiDAR',
    'images_and_lidar': 'images and LiDAR',
    'speed': 'speed',
    'target_point_and_command': 'target point, command',
    'history': 'history images and motion',
}


def exchangeable_inputs(inputs: Mapping[str, Any]) -> list[str]:
    """Names of the inputs that can be exchanged: those of ``KEYS``, then every other key by itself.

    Args:
        inputs: The inputs of one sample; ``history`` needs images of more than one frame.
    """
    names = [name for name, keys in KEYS.items() if keys[0] in inputs and keys[-1] in inputs]
    if 'history' in names and len(inputs['img']) < 2:
        names.remove('history')
    grouped = {key for keys in KEYS.values() for key in keys}
    return names + [key for key in inputs if key not in grouped]


def exchange(inputs: Mapping[str, Any], others: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Inputs of one sample, with one of them from another sample.

    Images are exchanged with the matrices of their cameras, and keep the ego motion between frames,
    which ``history`` exchanges. The point cloud includes its history sweeps.

    Args:
        inputs: The inputs of a sample.
        others: The inputs of the other sample.
        name: One of :func:`exchangeable_inputs`.
    """
    taken = {key: others[key] for key in KEYS.get(name, (name,)) if key in inputs}
    if name == 'history':  # the axis of frames is the first, and the key frame the last
        taken = {key: torch.cat([value[:-1], inputs[key][-1:]]) for key, value in taken.items()}
    return {**inputs, **taken}


def partners(routes: Sequence[str], seed: int) -> np.ndarray:
    """Another sample for each sample, each used once, from another route wherever possible.

    The S samples are sorted by route, routes and the samples of a route in random order, and then
    shifted cyclically. Any shift between M and S - M, where M is the length of the longest route, gives
    the smallest number of pairs within a route: none if 2 M <= S, else 2 M - S.

    Args:
        routes: Route of each sample.
        seed: Random seed.

    Returns:
        (S,) int64, a permutation in which no sample is its own partner.

    Raises:
        ConfigError: There are fewer than two samples.
    """
    count = len(routes)
    if count < 2:
        raise ConfigError('reliance needs at least two samples, whose inputs are exchanged: evaluate more')
    generator = np.random.default_rng(seed)
    _, numbers, lengths = np.unique(np.array(routes), return_inverse=True, return_counts=True)
    order = np.lexsort((generator.permutation(count), generator.permutation(len(lengths))[numbers]))
    low, high = sorted((int(lengths.max()), count - int(lengths.max())))
    shift = generator.integers(max(low, 1), min(high, count - 1), endpoint=True)
    result = np.empty(count, np.int64)
    result[order] = np.roll(order, shift)
    return result


class ExchangedInputs(Dataset):
    """A dataset whose samples have one input of another sample; targets and metas stay their own.

    Reads two samples for each. Where the other one is unreadable, the one that replaces it is used.

    Args:
        dataset: Its ``sample_id(index)``, ``<route>/<frame>``, tells the routes; without, each sample
            is a route by itself.
        name: The input, see :func:`exchangeable_inputs`.
        seed: See :func:`partners`.
    """

    def __init__(self, dataset: Any, name: str, seed: int) -> None:
        self.dataset = dataset
        self.name = name
        self.metainfo = getattr(dataset, 'metainfo', {})
        sample_id = getattr(dataset, 'sample_id', str)
        names = [sample_id(index) for index in range(len(dataset))]
        self._partners = partners([name.rpartition('/')[0] or name for name in names], seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        """Read a sample and exchange the input."""
        index = key[0] if isinstance(key, tuple) else key
        partner = int(self._partners[index])
        sample = self.dataset[key]
        other = self.dataset[(partner, *key[1:]) if isinstance(key, tuple) else partner]
        return {**sample, 'inputs': exchange(sample['inputs'], other['inputs'], self.name)}


def reliance_table(metrics: Mapping[str, float]) -> str:
    """Format the errors of ``OpenLoopMetric`` with the recorded and with exchanged inputs.

    Args:
        metrics: As returned by ``thinktwice.apis.test(..., reliance=True)``.
    """
    names = [key.split('/')[1] for key in metrics if key.endswith('/open_loop/ade')]
    starts = {'none': '', **{TITLES.get(name, name): f'reliance/{name}/' for name in names}}
    recorded = metrics['open_loop/ade']
    rows = []
    for title, start in starts.items():
        ade, fde = (metrics[f'{start}open_loop/{error}'] for error in ('ade', 'fde'))
        rows.append((title, f'{ade:.3f}', f'{ade / recorded - 1:+.1%}', f'{fde:.3f}'))
    table = format_table(('exchanged input', 'ADE, m', 'change', 'FDE, m'), rows)
    return f'{table}\n\nThe model does not use an input whose exchange changes nothing.'
