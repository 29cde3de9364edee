"""Dataset of training samples from recorded drives."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from thinktwice.errors import ConfigError, DamagedDataError
from thinktwice.geometry.route_planner import RoadOption
from thinktwice.registry import DATASETS, TRANSFORMS

from .calibration import load_calibration
from .corrupt_samples import SkippedSample
from .metadata import DatasetMetadata, load_metadata, recording_command
from .pipelines import LoadCameras, run_pipeline
from .samplers import SampleKey
from .splits import SplitSpec, build_index
from .storage import DatasetStorage, SampleReadError, UnusableSampleError

ERROR_POLICIES = ('raise', 'skip')


class UnreadableSplitError(DamagedDataError):
    """Neither a sample nor any of its replacements can be read.

    Args:
        message: one line, or the traceback of a worker that ends with it: torch raises the error
            again in the main process with the traceback as its message.
    """

    def __init__(self, message: str) -> None:
        place = f'{type(self).__module__}.{type(self).__qualname__}: '
        super().__init__(message.rpartition(place)[2].strip())


@DATASETS.register_module()
class CarlaDataset(Dataset):
    """Samples of recorded drives: a queue of frames, the teacher's outputs, and the future waypoints.

    A sample is ``dict(inputs, targets, metas)`` of plain tensors, see `PackSample`. All of its
    randomness is a function of (seed, epoch, index), independent of workers and of the order in
    which samples are read.

    `on_error` decides what happens to a sample with a damaged file. A sample with a frame without
    a heading (NaN) is always replaced, since such frames are a known gap of the recordings; if
    they are listed as ``invalid_frames`` in the metadata, they are excluded from the index
    instead. The replacement is another sample of the split, chosen by (seed, epoch, index).
    ``metas`` contain the index that was requested (`requested_index`), the index that was read
    (`index`), and the skipped samples with file and reason (`skipped`); see `SkippedSampleTally`.

    Args:
        data_root: folder or address of the dataset.
        pipeline: steps as config dictionaries or callables, run in order; the last one returns
            the sample.
        split: a `SplitSpec` or its arguments as a dictionary; None selects everything.
        num_frames: frames of the queue, the key frame included (T).
        horizon: future frames of the targets (K).
        seed: seed of all randomness, >= 0.
        test_mode: passed to the pipeline and to `metas`.
        with_targets: whether to load labels; without them a sample needs no future frames.
        on_error: ``raise`` or ``skip``, see above.
        max_replacements: replacements tried for one sample before an error is raised.
        backend_args: arguments of mmengine's file backend, None to choose by `data_root`.

    Attributes:
        storage_type: what opens the files at `data_root`; a subclass may read another format.
        calibration: sensor rig of the dataset, with the cameras that `LoadCameras` uses.

    Raises:
        FileNotFoundError: if there is no dataset or no metadata at `data_root`.
        ValueError: if the split has no samples, or an argument is out of range.
        ConfigError: if a step of the pipeline is neither a config nor a callable, the split has an
            unknown key, a camera of the pipeline is not in the calibration, or images of another
            size than the CARLA rig's have no calibration.
    """

    storage_type: type[DatasetStorage] = DatasetStorage

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        pipeline: Sequence[Any],
        split: SplitSpec | Mapping[str, Any] | None = None,
        num_frames: int = 2,
        horizon: int = 4,
        seed: int = 0,
        test_mode: bool = False,
        with_targets: bool = True,
        on_error: str = 'raise',
        max_replacements: int = 20,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        _check_arguments(num_frames, horizon, seed, with_targets, on_error)
        self.data_root = _checked_root(data_root, backend_args)
        self.num_frames = num_frames
        self.horizon = horizon
        self.seed = seed
        self.test_mode = test_mode
        self.with_targets = with_targets
        self.on_error = on_error
        self.max_replacements = max_replacements
        self._backend_args = backend_args
        self._storage: DatasetStorage | None = None
        self._storage_process = -1
        for number, step in enumerate(pipeline):
            if not isinstance(step, dict) and not callable(step):
                raise ConfigError(f'pipeline.{number} must be a dict with a type, got {step!r}')
        self.steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        metadata = self.load_metadata()
        if isinstance(split, Mapping):
            if unknown := sorted(split.keys() - SplitSpec.__annotations__.keys()):
                raise ConfigError(
                    f'split has no key {unknown[0]!r}, only {", ".join(SplitSpec.__annotations__)}'
                )
            split = SplitSpec(**split)
        self._index = build_index(metadata, split, num_frames - 1, horizon if with_targets else 0)
        self.calibration = load_calibration(self.storage, metadata)
        self._class_names: list[str] | None = None
        for step in self.steps:
            if isinstance(step, LoadCameras):
                self.calibration = self.calibration.select(step.cameras)
                self._class_names = step.class_names

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: SampleKey | int) -> Any:
        """Read a sample.

        Args:
            key: index and epoch; a plain index means epoch 0.

        Returns:
            The result of the last step of the pipeline.

        Raises:
            SampleReadError: if a file is damaged and `on_error` is ``raise``.
            UnreadableSplitError: if no replacement can be read either.
            IndexError: if the index is out of range.
        """
        requested, epoch = key if isinstance(key, tuple) else (int(key), 0)
        skipped: list[SkippedSample] = []
        for index in islice(self._candidates(requested, epoch), self.max_replacements + 1):
            try:
                return self._read(index, requested, epoch, skipped)
            except SampleReadError as error:
                if self.on_error == 'raise' and not isinstance(error, UnusableSampleError):
                    raise
                sample_id = self.sample_id(index)
                skipped.append(SkippedSample(sample_id=sample_id, path=error.path, reason=error.reason))
                print_log(f'sample {sample_id} is replaced: {error}', logger='current', level=logging.WARNING)
        files = dict.fromkeys(f'{skip["path"]}: {skip["reason"]}' for skip in skipped)
        raise UnreadableSplitError(
            f'data_root {self.data_root}: {len(skipped)} samples in a row could not be read, for example '
            f'{"; ".join(list(files)[:2])}. Check the data with `python tools/check_dataset.py '
            f'{self.data_root}`; with --repair it excludes damaged frames'
        )

    def __getstate__(self) -> dict[str, Any]:
        # File clients can't be pickled; every process opens its own.
        return {**self.__dict__, '_storage': None, '_storage_process': -1}

    @property
    def storage(self) -> DatasetStorage:
        """Files of the dataset, opened once per process (also after a fork)."""
        if self._storage is None or self._storage_process != os.getpid():
            self._storage = self.storage_type(self.data_root, self._backend_args)
            self._storage_process = os.getpid()
        return self._storage

    def load_metadata(self) -> DatasetMetadata:
        """Metadata of the dataset: its routes, among which the split chooses."""
        return load_metadata(self.storage, self.data_root)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Properties of the dataset that metrics, visualizers and checks of the model use."""
        return {
            'dataset': type(self).__name__,
            'data_root': self.data_root,
            'frame_interval': self.calibration.frame_interval,
            'horizon': self.horizon,
            'bev': {'x': self.calibration.bev_x, 'y': self.calibration.bev_y},
            'cameras': [camera.name for camera in self.calibration.cameras],
            'commands': [option.name.lower() for option in RoadOption],
            'classes': self._class_names,
        }

    def sample_id(self, index: int) -> str:
        """Name of a sample: town index, route and key frame."""
        town, route, frame = self._index.locate(index)
        return f'{town}/{route}/{frame:04d}'

    def _candidates(self, index: int, epoch: int) -> Iterator[int]:
        """Yield the requested index, then its replacements.

        They are drawn from the whole split: the neighbors of a damaged frame use the same file.
        """
        yield index
        generator = np.random.default_rng((self.seed, epoch, index, 1))
        while True:
            yield int(generator.integers(len(self)))

    def _read(self, index: int, requested: int, epoch: int, skipped: list[SkippedSample]) -> Any:
        town, route, frame = self._index.locate(index)
        sequence = np.random.SeedSequence((self.seed, epoch, requested))
        results: dict[str, Any] = {
            'sample_id': self.sample_id(index),
            'town': town,
            'route': route,
            'frame': frame,
            'frames': list(range(frame - self.num_frames + 1, frame + 1)),
            'future_frames': list(range(frame + 1, frame + 1 + self.horizon)),
            'reader': self.storage.route(town, route),
            'calibration': self.calibration,
            'rng': np.random.default_rng(sequence),
            'index': index,
            'requested_index': requested,
            'epoch': epoch,
            # 63 bits, because torch's generators take signed seeds.
            'seed': int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)),
            'skipped': list(skipped),
            'test_mode': self.test_mode,
            'with_targets': self.with_targets,
        }
        return run_pipeline(self.steps, results)


def _check_arguments(num_frames: int, horizon: int, seed: int, with_targets: bool, on_error: str) -> None:
    if num_frames < 1:
        raise ValueError(f'num_frames must be >= 1 (the key frame counts), got {num_frames}')
    if horizon < 1 and with_targets:
        raise ValueError(f'horizon must be >= 1 with targets, got {horizon}')
    if seed < 0:
        raise ValueError(f'seed must be >= 0, got {seed}')
    if on_error not in ERROR_POLICIES:
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")


def _checked_root(data_root: str | os.PathLike[str], backend_args: dict[str, Any] | None) -> str:
    """Return a local root as an absolute path, any other root unchanged."""
    root = os.fspath(data_root)
    is_local = '://' not in root and (backend_args or {}).get('backend', 'local') == 'local'
    if not is_local:
        return root
    root = os.path.abspath(os.path.expanduser(root))
    if os.path.isfile(root):
        raise NotADirectoryError(f'data_root {root} is a file: name the folder of the dataset')
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f'no dataset at {root}. Put the recorded drives there (a folder with dataset_metadata.json '
            'and townNN_XX/...), set data_root in the config to where they are, or record some: '
            f'`{recording_command(str(data_root))}`'
        )
    return root
