"""Several datasets as one, and a dataset repeated, under the names of mmengine's wrappers."""

import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset

from thinktwice.errors import ConfigError
from thinktwice.registry import DATASETS

from .samplers import SampleKey


@DATASETS.register_module()
class ConcatDataset(Dataset):
    """Samples of several datasets, one dataset after the other.

    `metas` of a sample have indices of the whole, so that evaluation counts every sample once.

    Args:
        datasets: datasets or their configs.

    Raises:
        ConfigError: if there is no dataset, or the datasets differ in cameras, horizon, frame
            interval, BEV range or classes.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        if not datasets:
            raise ConfigError('ConcatDataset: datasets is empty')
        self.datasets = [_built(dataset) for dataset in datasets]
        self._ends = list(accumulate(map(len, self.datasets)))
        self.metainfo = self._common_metainfo()

    def _common_metainfo(self) -> dict[str, Any]:
        """Metainfo of the first dataset, with the roots of all datasets."""
        first, *others = (dataset.metainfo for dataset in self.datasets)
        for number, other in enumerate(others, start=1):
            for key in first.keys() - {'data_root'}:
                if other[key] != first[key]:
                    raise ConfigError(
                        f'ConcatDataset: {key} is {first[key]!r} in datasets.0 ({first["data_root"]}), but '
                        f'{other[key]!r} in datasets.{number} ({other["data_root"]}); it must be equal'
                    )
        roots = dict.fromkeys(dataset.metainfo['data_root'] for dataset in self.datasets)
        return {**first, 'data_root': ', '.join(roots)}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: SampleKey | int) -> Any:
        """Read a sample; see `CarlaDataset.__getitem__`."""
        index, epoch = key if isinstance(key, tuple) else (int(key), 0)
        dataset, start = self._locate(index)
        return _shifted(dataset[SampleKey(index - start, epoch)], start)

    def sample_id(self, index: int) -> str:
        """Name of a sample in its dataset."""
        dataset, start = self._locate(index)
        return dataset.sample_id(index - start)

    def _locate(self, index: int) -> tuple[Any, int]:
        """Dataset of a sample and index of the dataset's first sample."""
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside 0..{len(self) - 1}')
        number = bisect.bisect_right(self._ends, index)
        return self.datasets[number], self._ends[number - 1] if number else 0


@DATASETS.register_module()
class RepeatDataset(Dataset):
    """A dataset several times in one epoch, with different augmentation each time.

    Args:
        dataset: a dataset or its config.
        times: number of repetitions, >= 1.

    Raises:
        ConfigError: if `times` is not a whole number >= 1.
    """

    def __init__(self, dataset: Any, times: int) -> None:
        if type(times) is not int or times < 1:
            raise ConfigError(f'RepeatDataset: times must be a whole number >= 1, got {times!r}')
        self.dataset = _built(dataset)
        self.times = times
        self.metainfo = self.dataset.metainfo

    def __len__(self) -> int:
        return self.times * len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> Any:
        """Read a sample; see `CarlaDataset.__getitem__`."""
        index, epoch = key if isinstance(key, tuple) else (int(key), 0)
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} is outside 0..{len(self) - 1}')
        repetition, inner = divmod(index, len(self.dataset))
        # every repetition counts as an epoch of its own, which makes its random numbers different
        sample = self.dataset[SampleKey(inner, epoch * self.times + repetition)]
        return _shifted(sample, index - inner)

    def sample_id(self, index: int) -> str:
        """Name of a sample, the same in each repetition."""
        return self.dataset.sample_id(index % len(self.dataset))


def _built(dataset: Any) -> Any:
    return DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset


def _shifted(sample: dict[str, Any], start: int) -> dict[str, Any]:
    """Move the indices of a sample from those of its dataset to those of the wrapper."""
    metas = sample['metas']
    moved = {key: metas[key] + start for key in ('index', 'requested_index')}
    return {**sample, 'metas': {**metas, **moved}}
