"""What becomes one line for a user, and what keeps its traceback."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from thinktwice import errors
from thinktwice.errors import (
    CheckpointError,
    ConfigError,
    StartError,
    as_config_error,
    as_user_error,
    describe,
)
from thinktwice.registry import HOOKS, MODELS


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take these tests for installed code, not for a user's own."""
    monkeypatch.setattr(errors, 'INSTALLED', (*errors.INSTALLED, __file__))


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (ZeroDivisionError('division by zero'), ConfigError),
        (AttributeError('no depth'), ConfigError),
        (IndexError('tuple index out of range'), ConfigError),
        (NotImplementedError('later'), ConfigError),
        (RuntimeError('out of memory'), StartError),
        (MemoryError('unable to allocate'), StartError),
    ],
)
@pytest.mark.usefixtures('installed')
def test_error_of_building_is_one_line_with_its_place(error, expected):
    message = rf'^model: {error} \({type(error).__name__}; THINKTWICE_TRACEBACK=1 '
    with pytest.raises(expected, match=message), as_config_error('model'):
        raise error


@pytest.mark.usefixtures('installed')
def test_users_errors_stay_and_those_of_files_name_the_key():
    with pytest.raises(CheckpointError, match='^torn$'), as_config_error('model'):
        raise CheckpointError('torn')
    with pytest.raises(ConfigError, match='^model: .*missing.pth'), as_config_error('model'):
        Path('missing.pth').read_text()


@pytest.mark.usefixtures('installed')
def test_error_of_compiled_code_and_a_long_message_are_one_line():
    with pytest.raises(ConfigError, match=r'^Seed must be between .*\(ValueError'), as_config_error():
        np.random.seed(2**40)  # its traceback names numpy's source files
    with pytest.raises(ConfigError) as raised, as_config_error():
        raise ValueError('x' * 10_000)
    assert len(str(raised.value)) < 700


@pytest.mark.usefixtures('installed')
def test_failed_part_and_assertion_are_named(tmp_path, monkeypatch):
    path = tmp_path / 'pyramid.py'  # pytest changes the assertions of this file
    path.write_text('def build(levels):\n    assert levels > 3\n')
    monkeypatch.setattr(errors, 'INSTALLED', (*errors.INSTALLED, str(path)))
    monkeypatch.setitem(MODELS.module_dict, 'Pyramid', runpy.run_path(str(path))['build'])
    message = r'^model.neck: Pyramid cannot be built: assert levels > 3 \(AssertionError; '
    neck = dict(type='Pyramid', levels=2)
    with pytest.raises(ConfigError, match=message), as_config_error('model', dict(model=dict(neck=neck))):
        MODELS.build(neck)
    with pytest.raises(ConfigError, match='^model: Pyramid cannot be built'), as_config_error('model'):
        MODELS.build(neck)


@pytest.mark.usefixtures('installed')
def test_missing_argument_is_named():
    message = "^heads: UNetSegmentationHead needs the argument 'num_classes'$"
    with pytest.raises(ConfigError, match=message), as_config_error('heads'):
        MODELS.build(dict(type='UNetSegmentationHead', in_channels=[8, 8], up_channels=[8], head_channels=8))


@pytest.mark.usefixtures('installed')
def test_error_written_for_users_stays_as_it_is():
    config = dict(
        heads=[
            dict(
                type='UNetSegmentationHead',
                in_channels=[8, 8],
                up_channels=[8, 8],
                head_channels=8,
                num_classes=2,
            )
        ]
    )
    message = '^heads.0: UNetSegmentationHead: up_channels needs one entry fewer than in_channels, got [^;]*$'
    with pytest.raises(ConfigError, match=message), as_config_error(config=config):
        MODELS.build(config['heads'][0])


@pytest.mark.usefixtures('installed')
def test_name_of_another_registry_is_said():
    with (
        pytest.raises(ConfigError, match="^hooks: there is no hook called 'UNetSegmentationHead'$"),
        as_config_error('hooks'),
    ):
        HOOKS.build(dict(type='UNetSegmentationHead'))


@pytest.mark.parametrize(
    ('read', 'expected'),
    [
        (lambda: {}['depth'], "the key 'depth' is missing"),
        (lambda: b'\xff'.decode(), 'not UTF-8 text'),
        (lambda: json.loads('[' * 100_000), 'nested too deeply'),
        (lambda: Path('no/file').read_text(), 'No such file or directory: no/file'),
        (lambda: os.close(-1), 'Bad file descriptor'),
    ],
)
def test_common_errors_are_described_in_words(read, expected):
    with pytest.raises(Exception, match='.') as raised:
        read()
    assert describe(raised.value) == expected


@pytest.mark.usefixtures('installed')
def test_part_without_type_is_shown():
    message = "^hooks: {'typx': 'Mine'} names no class: set its key type"
    with pytest.raises(ConfigError, match=message), as_config_error('hooks'):
        MODELS.build({'typx': 'Mine'})


def test_own_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), as_config_error('model'):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), as_user_error(StartError, lambda: 'a step failed'):
        raise ZeroDivisionError


@pytest.mark.usefixtures('installed')
def test_error_is_converted_only_where_something_is_said_to_have_failed():
    with (
        pytest.raises(StartError, match=r"^a step failed: the key 'depth' is missing \(KeyError"),
        as_user_error(StartError, lambda: 'a step failed'),
    ):
        raise KeyError('depth')
    with pytest.raises(KeyError), as_user_error(StartError, lambda: None):
        raise KeyError('depth')


@pytest.mark.usefixtures('installed')
def test_traceback_on_demand_and_of_a_lost_connection(monkeypatch):
    with pytest.raises(torch.distributed.DistError), as_config_error():
        raise torch.distributed.DistNetworkError('connection reset')
    monkeypatch.setenv(errors.TRACEBACK_VARIABLE, '1')
    with pytest.raises(KeyError), as_config_error():
        raise KeyError('depth')


def fail(samples: list) -> None:
    raise ValueError('bad sample')


LOAD = """
with as_user_error(StartError, lambda: 'a step failed'):
    next(iter(loader))
"""


@pytest.mark.parametrize('is_own', [False, True])
def test_error_of_a_loader_worker(is_own, monkeypatch):
    loader = DataLoader([1, 2], num_workers=1, collate_fn=fail)
    if not is_own:
        monkeypatch.setattr(errors, 'INSTALLED', (*errors.INSTALLED, __file__))
    with pytest.raises(ValueError if is_own else StartError) as raised:
        exec(compile(LOAD, '<installed>', 'exec'), {**globals(), 'loader': loader})
    if not is_own:
        assert str(raised.value).startswith('a step failed: bad sample (ValueError')
