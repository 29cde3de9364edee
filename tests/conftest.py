"""Every test starts from the same seeds, on one thread, and leaves the process as it found it."""

import os
import random
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: worker processes of pytest-xdist share the cores, and more threads than
# cores make small operators slower by orders of magnitude.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', '1')

import helpers.type_checker
import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from mmengine.registry import DefaultScope

# Before the package is imported: shapes and types are checked at each call, in the tests only.
install_import_hook(
    [f'thinktwice.{package}' for package in helpers.type_checker.CHECKED_PACKAGES],
    'helpers.type_checker.check_types',
)

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell starts jobs in the background with Ctrl-C ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Slow machines are not a failure, and a failing example has to fail again in the next run.
hypothesis.settings.register_profile('thinktwice', deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile('thinktwice')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``cuda``, saying why, where there is no device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if 'cuda' in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed Python, numpy and torch."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def restored_process() -> Iterator[None]:
    """Put back the environment, working directory, thread count, warning filters and default scope."""
    scopes = dict(DefaultScope._instance_dict)
    environment, folder, threads = dict(os.environ), Path.cwd(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        yield
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    # a scope that one test chose would decide which parts the next one finds
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.fixture(scope='session')
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope='session')
def shared_samples() -> Path:
    """Return the folder of real samples, or skip: they do not travel with the repository."""
    folder = REPOSITORY.parent / 'shared' / 'samples'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    return folder
