"""Loader workers that run out of shared memory or open files end the run in one line, and never hang it."""

import multiprocessing
import resource
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from thinktwice.core.loader_workers import init_worker, with_hints
from thinktwice.errors import StartError

SHARED_MEMORY_IS_FULL = (
    'unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)'
)


class Samples(Dataset):
    """Lists of tensors; ``prepare`` is called in the worker before the first."""

    def __init__(self, prepare):
        self.prepare = prepare

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 0:
            self.prepare()
        return [torch.full((3,), index) for _ in range(200)]


def nothing():
    pass


def allow_few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


def fill_shared_memory():
    raise RuntimeError(SHARED_MEMORY_IS_FULL)


def fail_to_send():
    def fail(content):
        raise RuntimeError(SHARED_MEMORY_IS_FULL)

    multiprocessing.queues._ForkingPickler.dumps = fail  # in this worker only


def load(prepare):
    loader = DataLoader(
        Samples(prepare),
        batch_size=None,
        num_workers=1,
        timeout=60,
        worker_init_fn=partial(init_worker, num_workers=1, rank=0, seed=0),
    )
    with with_hints():
        return list(loader)


def test_samples_arrive_where_there_is_enough():
    assert [int(sample[0][0]) for sample in load(nothing)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('prepare', 'hint'),
    [(allow_few_files, 'ulimit -n'), (fill_shared_memory, '--shm-size'), (fail_to_send, '--shm-size')],
)
def test_what_runs_out_is_one_line_that_says_what_to_do(prepare, hint, capfd):
    with pytest.raises(StartError) as caught:
        load(prepare)
    shown = [*capfd.readouterr().err.splitlines(), str(caught.value)]
    assert all(line.startswith(('error of a loader worker: ', 'loading data failed (')) for line in shown)
    assert hint in shown[0]
    assert 'num_workers=0' in shown[0]


def test_other_errors_stay_as_they_are():
    for error in (RuntimeError('other'), OSError(28, 'No space left on device', 'log.txt'), EOFError()):
        with pytest.raises(type(error)) as caught, with_hints():
            raise error
        assert caught.value is error
