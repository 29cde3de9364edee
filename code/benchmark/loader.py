"""How quickly a dataset loads, in samples a second and in yardsticks.

A yardstick is the time of decoding one 1600x900 colour PNG in the same run, on
the same core: it carries figures from one machine to another.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thinktwice.datasets.samplers import SampleKey
from thinktwice.datasets.storage import is_packed
from thinktwice.registry import DATASETS, TRANSFORMS

YARDSTICK_SIZE = (900, 1600)
READS = ('rgb', 'depth_code', 'class_ids', 'points', 'supervision', 'measurements')


def made_up_png() -> bytes:
    """Make an image that costs about as much to decode as a recorded one (1.5 MB).

    Returns:
        bytes: A PNG file of 1600x900 pixels, always the same.
    """
    generator = np.random.default_rng(0)
    height, width = YARDSTICK_SIZE
    image = np.zeros((height, width, 3), np.float32)
    for size, contrast in ((200, 60), (30, 25), (6, 6), (3, 2.5)):  # pixels, grey levels
        noise = generator.standard_normal((height // size + 2, width // size + 2, 3), np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * contrast
    # Adaptive filters, as most writers use: slower to decode than OpenCV's default of one filter.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    return cv2.imencode('.png', (image + 127).clip(0, 255).astype(np.uint8), options)[1].tobytes()


def measure_yardstick(png: bytes, repeats: int = 7) -> float:
    """Time the decoding of a PNG on one thread.

    Args:
        png (bytes): The file.
        repeats (int): Decodings; the median counts.

    Returns:
        float: Seconds.

    Raises:
        ValueError: If it is not a 1600x900 image.
    """
    data, times = np.frombuffer(png, np.uint8), []
    for _ in range(repeats):
        start = time.perf_counter()
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        times.append(time.perf_counter() - start)
    if image is None or image.shape[:2] != YARDSTICK_SIZE:
        raise ValueError(f'the yardstick must be an image of {YARDSTICK_SIZE[0]}x{YARDSTICK_SIZE[1]} pixels')
    return statistics.median(times)


class _TimedReader:
    """Passes reads on and adds their time to a table."""

    def __init__(self, reader: Any, times: dict[str, float]) -> None:
        self._reader, self._times = reader, times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._reader, name)
        return partial(self._timed, name, method) if name in READS else method

    def _timed(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args)
        finally:
            self._times[f'read {name}'] = self._times.get(f'read {name}', 0) + time.perf_counter() - start


class _TimedStep:
    """A step of the pipeline whose time, without its reads, is added to a table."""

    def __init__(self, step: Callable[[dict], dict], times: dict[str, float]) -> None:
        self._step, self._times = step, times

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(results['reader'], _TimedReader):
            results['reader'] = _TimedReader(results['reader'], self._times)
        reads = sum(seconds for stage, seconds in self._times.items() if stage.startswith('read '))
        start = time.perf_counter()
        output = self._step(results)
        elapsed = time.perf_counter() - start
        reads = sum(seconds for stage, seconds in self._times.items() if stage.startswith('read ')) - reads
        name = type(self._step).__name__
        self._times[name] = self._times.get(name, 0) + elapsed - reads
        return output


@dataclass
class LoaderTiming:
    """What one run of a loader took.

    Attributes:
        label (str): Format of the data and number of workers.
        samples (int): Samples that were timed.
        seconds (float): Wall time of them.
        yardstick (float): Seconds, measured beside the run (without workers
            after every sample).
        memory (float): MB a process (its own and its share of what is shared);
            NaN where the system does not tell.
        stages (dict[str, float]): Seconds a sample by stage, without workers.
    """

    label: str
    samples: int
    seconds: float
    yardstick: float
    memory: float
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def samples_per_second(self) -> float:
        """Throughput.

        Returns:
            float: Samples a second.
        """
        return self.samples / self.seconds

    @property
    def yardsticks(self) -> float:
        """Cost of a sample.

        Returns:
            float: Wall time a sample in yardsticks.
        """
        return self.seconds / self.samples / self.yardstick


class _Keys:
    """Samples in a shuffled order, over and over, as training reads them."""

    def __init__(self, length: int, count: int) -> None:
        self._length, self._count = length, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.random.default_rng(0).permutation(self._length)
        for position in range(self._count):
            epoch, place = divmod(position, self._length)
            yield SampleKey(int(order[place]), epoch)


def _one_thread(_worker: int = 0) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def process_memory(process: int | str = 'self') -> float:
    """Give the memory of a process, shared pages divided among their users.

    Args:
        process (int | str): Its id.

    Returns:
        float: MB; NaN where the system does not tell.
    """
    try:
        text = Path(f'/proc/{process}/smaps_rollup').read_text()
    except OSError:
        return float('nan')
    return next(float(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith('Pss:'))


def measure_loader(
    dataset_config: Mapping[str, Any],
    collate: Callable[[list], Any],
    workers: int,
    samples: int,
    yardstick_png: bytes,
) -> LoaderTiming:
    """Time a dataset behind a loader of single samples.

    Args:
        dataset_config (Mapping[str, Any]): Of the dataset, with ``data_root``
            and ``pipeline``.
        collate (Callable[[list], Any]): Makes a batch.
        workers (int): Worker processes; 0 reads in this one and times stages.
        samples (int): Samples to time, after one a worker to warm up.
        yardstick_png (bytes): See :func:`measure_yardstick`.

    Returns:
        LoaderTiming: The figures.
    """
    _one_thread()
    times: dict[str, float] = {}
    config = dict(dataset_config)
    if workers == 0:
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in config['pipeline']]
        config['pipeline'] = [_TimedStep(step, times) for step in steps]
    dataset: Dataset = DATASETS.build(config)
    warm_up = max(1, workers)
    keys = _Keys(len(dataset), samples + warm_up)  # type: ignore[arg-type]
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=1,
        sampler=keys,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_one_thread,
    )
    yardsticks = [measure_yardstick(yardstick_png)]
    batches = iter(loader)
    for _ in range(warm_up):
        next(batches)
    times.clear()
    seconds = 0.0
    for _ in range(samples):
        start = time.perf_counter()
        next(batches)
        seconds += time.perf_counter() - start
        if workers == 0:  # side by side, so that other load on the machine cancels out
            yardsticks.append(measure_yardstick(yardstick_png, repeats=1))
    processes = [worker.pid for worker in getattr(batches, '_workers', [])] or ['self']
    memory = max(process_memory(process) for process in processes)
    del batches
    yardsticks.append(measure_yardstick(yardstick_png))
    name = 'packed' if is_packed(config['data_root']) else 'raw'
    return LoaderTiming(
        label=f'{name}, {workers} workers',
        samples=samples,
        seconds=seconds,
        yardstick=statistics.mean(yardsticks),
        memory=memory,
        stages={stage: total / samples for stage, total in times.items()},
    )


def format_table(timings: list[LoaderTiming]) -> str:
    """Write timings as Markdown tables: the loaders, then their stages.

    Args:
        timings (list[LoaderTiming]): In order.

    Returns:
        str: The text.
    """
    lines = [
        '| data | samples/s | ms/sample | yardsticks/sample | MB/process |',
        '| --- | --- | --- | --- | --- |',
    ]
    for timing in timings:
        milliseconds = timing.seconds / timing.samples * 1e3
        lines.append(
            f'| {timing.label} | {timing.samples_per_second:.2f} | {milliseconds:.0f} '
            f'| {timing.yardsticks:.2f} | {timing.memory:.0f} |'
        )
    staged = [timing for timing in timings if timing.stages]
    if staged:
        names = sorted(
            {name for timing in staged for name in timing.stages}, key=lambda n: (n[:5] != 'read ', n)
        )
        lines += ['', '| stage, yardsticks/sample | ' + ' | '.join(t.label for t in staged) + ' |']
        lines.append('| --- |' + ' --- |' * len(staged))
        for name in names:
            costs = [timing.stages.get(name, 0) / timing.yardstick for timing in staged]
            lines.append(f'| {name} | ' + ' | '.join(f'{cost:.2f}' for cost in costs) + ' |')
    yardsticks = ', '.join(f'{timing.yardstick * 1e3:.1f}' for timing in timings)
    lines += ['', f'One yardstick (decoding a 1600x900 PNG) took {yardsticks} ms beside these runs.']
    return '\n'.join(lines)
