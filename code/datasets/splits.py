"""Splits of a dataset: towns, their indices, and caps per town.

The splits themselves are defined in the configs. This module turns a `SplitSpec` and a dataset's
metadata into a compact, ordered index of samples.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.logging import print_log

from .metadata import DatasetMetadata, RouteRecord


@dataclass(frozen=True)
class SplitSpec:
    """A part of a dataset.

    Attributes:
        towns: towns in order, such as ``town01``.
        indices: indices of each town in order, such as ``val`` or ``00``.
        caps: largest number of samples per town: one number for all towns, a number for some
            towns (others are not capped), or None for no caps.
    """

    towns: Sequence[str]
    indices: Sequence[str]
    caps: Mapping[str, int] | int | None = None

    def __post_init__(self) -> None:
        for key, names in (('towns', self.towns), ('indices', self.indices)):
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f'split.{key} must be a list of names, got {names!r}; '
                    f'on the command line with both kinds of quotes: "...split.{key}=[\'05\']"'
                )
        if isinstance(self.caps, Mapping):
            # caps of other towns are ignored, since splits share them, unless one looks like a misspelling
            unknown, uncapped = self.caps.keys() - set(self.towns), set(self.towns) - self.caps.keys()
            if unknown and uncapped:
                raise ValueError(
                    f'split.caps has {min(unknown)!r}, which is not in split.towns, but not {min(uncapped)!r}'
                )
        caps = self.caps.values() if isinstance(self.caps, Mapping) else [self.caps]
        for cap in caps:
            if cap is not None and (type(cap) is not int or cap < 0):
                raise ValueError(f'split.caps must be whole numbers >= 0 or None, got {cap!r}')

    def names(self) -> list[str]:
        """Town indices such as ``town01_00``, in the order of enumeration."""
        return [f'{town}_{index}' for town in self.towns for index in self.indices]

    def cap_of(self, town: str) -> int | None:
        """Largest number of samples of a town, None for no limit."""
        return self.caps.get(town) if isinstance(self.caps, Mapping) else self.caps


class SampleIndex:
    """An ordered list of samples, stored as runs of consecutive key frames of one route.

    A million samples take kilobytes in every worker.

    Args:
        runs: town index such as ``town01_00``, route, first key frame and length of each run.
    """

    def __init__(self, runs: Sequence[tuple[str, str, int, int]]) -> None:
        self._names = np.array([f'{town}/{route}' for town, route, _, _ in runs], dtype=np.bytes_)
        bounds = np.array([run[2:] for run in runs], dtype=np.int64)
        self._end = np.cumsum(bounds[:, 1])
        self._frame_minus_index = bounds[:, 0] - (self._end - bounds[:, 1])

    def __len__(self) -> int:
        return int(self._end[-1])

    def locate(self, index: int) -> tuple[str, str, int]:
        """Town index, route and key frame of a sample.

        Raises:
            IndexError: if the index is outside 0..len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside 0..{len(self) - 1}')
        run = int(np.searchsorted(self._end, index, side='right'))
        town, route = self._names[run].decode().split('/')
        return town, route, index + int(self._frame_minus_index[run])


def town_of(town_index: str) -> str:
    """Town of a town index: ``town01`` for ``town01_00``."""
    return town_index.rsplit('_', 1)[0]


def key_frame_runs(record: RouteRecord, history: int, horizon: int) -> list[tuple[int, int]]:
    """Runs (first, length) of key frames t whose frames t - history..t + horizon are all valid.

    The expert drove alone from t to t + horizon; before t anybody may have driven. A route of L usable
    frames, none of them invalid or disturbed, has one run of L - history - horizon.
    """
    is_key_frame = np.zeros(record.usable, dtype=bool)
    is_key_frame[history : max(record.usable - horizon, 0)] = True
    for frame in record.invalid_frames:
        is_key_frame[max(frame - horizon, 0) : frame + history + 1] = False
    for frame in record.disturbed_frames:
        is_key_frame[max(frame - horizon + 1, 0) : frame + 1] = False
    edges = np.flatnonzero(np.diff(is_key_frame, prepend=False, append=False))
    return [(first, end - first) for first, end in edges.reshape(-1, 2).tolist()]


def build_index(
    metadata: DatasetMetadata, split: SplitSpec | None, history: int, horizon: int
) -> SampleIndex:
    """Enumerate the samples of a split.

    Order: towns and indices as in the split, routes as in the metadata, frames ascending. A town
    stops exactly at its cap, within a route if necessary. (The 2023 code checked the cap before
    each route and exceeded it by up to one route.)

    Args:
        metadata: metadata of the dataset.
        split: None selects everything, in the order of the metadata.
        history: frames needed before the key frame (T - 1).
        horizon: frames needed after the key frame (K).

    Raises:
        ValueError: if there is no sample; the message says why and lists the available towns.
    """
    names = list(metadata.towns) if split is None else split.names()
    room = {town_of(name): split.cap_of(town_of(name)) if split else None for name in names}
    runs: list[tuple[str, str, int, int]] = []
    for name in names:
        town = town_of(name)
        for route, record in metadata.towns.get(name, {}).items():
            for first, length in key_frame_runs(record, history, horizon):
                left = room[town]
                taken = length if left is None else min(length, left)
                if taken:
                    runs.append((name, route, first, taken))
                if left is not None:
                    room[town] = left - taken
    _report(metadata, names, has_samples=bool(runs), window=history + 1 + horizon)
    return SampleIndex(runs)


def _report(metadata: DatasetMetadata, names: list[str], has_samples: bool, window: int) -> None:
    """Log the town indices that are missing, with a warning for towns that are missing entirely."""
    absent = [name for name in names if name not in metadata.towns]
    available = ', '.join(sorted(metadata.towns)) or 'nothing'
    if not has_samples:
        raise ValueError(
            f'the split has no samples (a sample needs {window} consecutive usable frames); '
            f'the metadata lists {available}; not in it: {", ".join(absent) or "nothing"}. '
            'Choose available towns and indices, raise the caps, or record more'
        )
    asked, missing = Counter(map(town_of, names)), Counter(map(town_of, absent))
    if gone := [town for town in asked if missing[town] == asked[town]]:
        print_log(
            f'the split names {", ".join(gone)}, but the metadata has no routes of it (it lists {available})',
            logger='current',
            level=logging.WARNING,
        )
    if missing.total():
        found = ', '.join(f'{town} {asked[town] - missing[town]} of {asked[town]}' for town in asked)
        print_log(f'town indices of the split found in the metadata: {found}', logger='current')
