"""How fast a dataset loads: samples/s, time per stage, memory per process."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thinktwice.datasets.samplers import SampleKey
from thinktwice.registry import DATASETS, TRANSFORMS
from thinktwice.tables import format_table


class _Timed:
    """A callable that adds the time of its calls to a table; timed calls within it count twice."""

    def __init__(self, name: str, function: Callable[..., Any], seconds: dict[str, float]) -> None:
        self._name, self._function, self._seconds = name, function, seconds

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*args)
        finally:
            self._seconds[self._name] += time.perf_counter() - start


class _TimedReader:
    """The reader of a route with all its methods timed."""

    def __init__(self, reader: Any, seconds: dict[str, float]) -> None:
        self._reader, self._seconds = reader, seconds

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._reader, name)
        return _Timed(f'reader.{name}', member, self._seconds) if callable(member) else member


@dataclass
class LoaderTiming:
    """Measurement of one dataset with one number of workers.

    Attributes:
        data_root: Folder of the dataset.
        workers: Number of worker processes.
        samples: Number of timed samples.
        seconds: Wall time of all of them.
        memory: MB per worker, or of this process without workers: its own pages and its share of
            the shared ones. NaN where the system does not report it.
        stages: Seconds per sample of each pipeline step and of each method of the reader that the
            steps call; measured without workers only.
    """

    data_root: str
    workers: int
    samples: int
    seconds: float
    memory: float
    stages: dict[str, float] = field(default_factory=dict)


def _use_one_thread(worker_id: int = 0) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def process_memory(process: int | str = 'self') -> float:
    """Return the proportional set size of a process in MB, NaN where the system does not report it.

    Args:
        process: Process id.
    """
    try:
        text = Path(f'/proc/{process}/smaps_rollup').read_text()
    except OSError:
        return float('nan')
    return next(float(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith('Pss:'))


def measure_loader(
    dataset_config: Mapping[str, Any], collate: Callable[[list], Any], workers: int, samples: int
) -> LoaderTiming:
    """Time a dataset behind a loader with a batch size of 1 and one thread per process.

    Args:
        dataset_config: Config of the dataset with ``data_root`` and ``pipeline``.
        collate: Collate function of the loader.
        workers: Number of worker processes; with 0, stages are timed.
        samples: Samples to time, in random order, after one per worker to warm up.
    """
    _use_one_thread()
    seconds: dict[str, float] = defaultdict(float)

    def time_reader(results: dict[str, Any]) -> dict[str, Any]:
        return {**results, 'reader': _TimedReader(results['reader'], seconds)}

    config = dict(dataset_config)
    if workers == 0:
        steps = [TRANSFORMS.build(step) for step in config['pipeline']]
        config['pipeline'] = [time_reader, *(_Timed(type(step).__name__, step, seconds) for step in steps)]
    dataset: Dataset = DATASETS.build(config)
    warm_up = max(1, workers)
    order = np.random.default_rng(0).permutation(len(dataset))  # type: ignore[arg-type]
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=1,
        sampler=[SampleKey(int(index), 0) for index in np.resize(order, samples + warm_up)],
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_use_one_thread,
    )
    batches = iter(loader)
    for _ in range(warm_up):
        next(batches)
    seconds.clear()
    start = time.perf_counter()
    for _ in range(samples):
        next(batches)
    elapsed = time.perf_counter() - start
    processes = [worker.pid for worker in getattr(batches, '_workers', [])] or ['self']
    return LoaderTiming(
        data_root=str(config['data_root']),
        workers=workers,
        samples=samples,
        seconds=elapsed,
        memory=max(map(process_memory, processes)),
        stages={stage: total / samples for stage, total in seconds.items()},
    )


def format_timings(timings: Sequence[LoaderTiming]) -> str:
    """Format timings as tables: one of all runs, one of the stages of the runs without workers."""
    text = format_table(
        ('data', 'workers', 'samples/s', 'ms per sample', 'MB per process'),
        [
            (
                timing.data_root,
                str(timing.workers),
                f'{timing.samples / timing.seconds:.2f}',
                f'{timing.seconds / timing.samples * 1e3:.1f}',
                f'{timing.memory:.0f}',
            )
            for timing in timings
        ],
    )
    staged = [timing for timing in timings if timing.stages]
    if not staged:
        return text
    stages = dict.fromkeys(stage for timing in staged for stage in timing.stages)
    rows = [(stage, *(f'{timing.stages.get(stage, 0) * 1e3:.1f}' for timing in staged)) for stage in stages]
    header = ('stage, ms per sample', *(timing.data_root for timing in staged))
    return f'{text}\n\n{format_table(header, rows)}\n\nThe time of a step includes that of the reader.'
