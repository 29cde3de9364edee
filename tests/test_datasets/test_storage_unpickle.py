"""Pickles of strangers: what is needed reads, anything else is refused before it runs."""

import contextlib
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinktwice.datasets.storage import SampleReadError, parse_array, parse_pickled_object, restricted_loads


class Payload:
    """Pickles as a call of the given function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def npy_of(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(value, dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_numbers_and_containers_survive(protocol: int) -> None:
    value = {
        'transposed': np.arange(6, dtype=np.float32).reshape(2, 3).T,
        'big endian': np.array([1, 2], dtype='>i2'),
        'scalar': np.float32(0.1),
        'truth': np.bool_(True),
        'list': [1, -2.5, None, 'text', b'bytes', (3, 2**70)],
        'empty': np.zeros((0, 4)),
    }
    loaded = restricted_loads(pickle.dumps(value, protocol=protocol), 'file')
    assert loaded.keys() == value.keys()
    np.testing.assert_array_equal(loaded['transposed'], value['transposed'])
    np.testing.assert_array_equal(loaded['big endian'], [1, 2])
    assert loaded['big endian'].dtype.isnative and loaded['transposed'].flags.writeable
    assert loaded['scalar'] == value['scalar'] and loaded['scalar'].dtype == np.float32
    assert loaded['truth'] and loaded['list'] == value['list'] and loaded['empty'].shape == (0, 4)


def test_files_of_both_numpy_generations_read() -> None:
    new = pickle.dumps(np.arange(3.0), protocol=2)
    assert b'numpy._core.multiarray' in new or b'numpy.core.multiarray' in new
    for generation in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
        renamed = new.replace(b'numpy._core.multiarray', generation).replace(
            b'numpy.core.multiarray', generation
        )
        np.testing.assert_array_equal(restricted_loads(renamed, 'file'), np.arange(3.0))


def test_an_object_array_of_a_dictionary_reads_like_the_recorder_writes_it() -> None:
    value = {'features': np.arange(4, dtype=np.float32), 'maps': [np.ones((2, 2))], 'flag': False}
    loaded = parse_pickled_object(npy_of(value), 'file')
    np.testing.assert_array_equal(loaded['features'], value['features'])
    np.testing.assert_array_equal(loaded['maps'][0], value['maps'][0])
    assert loaded['flag'] is False


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize(
    ('function', 'name'),
    [(os.system, 'system'), (eval, 'eval'), (getattr, 'getattr'), (np.fromfile, 'fromfile'), (open, 'open')],
)
def test_a_payload_is_refused_by_name_and_not_run(
    tmp_path: Path, protocol: int, function: Any, name: str
) -> None:
    trace = tmp_path / 'trace'
    argument = f'touch {trace}' if function is os.system else str(trace)
    data = pickle.dumps({'action_mu': Payload(function, argument)}, protocol=protocol)
    with pytest.raises(SampleReadError, match=rf'supervision/0001.npy: refused: .*{name}') as caught:
        restricted_loads(data, 'supervision/0001.npy')
    assert caught.value.path == 'supervision/0001.npy'
    assert not trace.exists()


def test_a_payload_inside_an_npy_file_is_refused() -> None:
    with pytest.raises(SampleReadError, match='posix.system'):
        parse_pickled_object(npy_of({'value': Payload(os.system, 'true')}), 'file')


def test_old_style_instances_are_refused() -> None:
    with pytest.raises(SampleReadError, match=r'refused: .*os\.system'):
        restricted_loads(b"(S'true'\nios\nsystem\n.", 'file')


def test_a_pickle_can_not_change_this_program() -> None:
    # GLOBAL numpy._core.multiarray._reconstruct, then BUILD with a dictionary of attributes.
    data = b"cnumpy._core.multiarray\n_reconstruct\n(dS'function'\nS'x'\nsb."
    with pytest.raises(SampleReadError):
        restricted_loads(data, 'file')
    with pytest.raises(SampleReadError):
        restricted_loads(b"cnumpy._core.multiarray\n_reconstruct\n(N(dS'function'\nS'x'\nstb.", 'file')
    np.testing.assert_array_equal(restricted_loads(pickle.dumps(np.arange(2), protocol=4), 'file'), [0, 1])


def test_an_absurd_memory_request_is_refused_before_it_is_made() -> None:
    data = b'N' + b'r' + (2**31 - 1).to_bytes(4, 'little') + b'.'
    with pytest.raises(SampleReadError, match='memory'):
        restricted_loads(data, 'file')


def test_containers_inside_themselves_and_deep_nesting_are_refused() -> None:
    loop: list = []
    loop.append(loop)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(SampleReadError, match='nested deeper'):
            restricted_loads(pickle.dumps(value), 'file')


def test_an_array_with_the_wrong_byte_count_is_refused() -> None:
    data = pickle.dumps(np.arange(4, dtype=np.float64), protocol=2)
    shape = data.index(b'K\x04\x85')
    with pytest.raises(SampleReadError, match='holds 32 bytes'):
        restricted_loads(data[: shape + 1] + b'\x05' + data[shape + 2 :], 'file')


@pytest.mark.parametrize('cut', [0, 1, 10, 60, -1])
def test_a_truncated_pickle_is_reported(cut: int) -> None:
    data = pickle.dumps({'a': np.arange(10)})[:cut]
    with pytest.raises(SampleReadError, match='file: '):
        restricted_loads(data, 'file')


def test_random_damage_never_gets_out_as_another_error() -> None:
    generator = np.random.default_rng(0)
    original = bytearray(pickle.dumps({'a': np.arange(10.0), 'b': [1, 'x', np.float32(2)]}, protocol=4))
    modules = set(sys.modules)
    for _ in range(500):
        data = bytearray(original)
        for position in generator.integers(0, len(data), 3):
            data[position] = generator.integers(0, 256)
        with contextlib.suppress(SampleReadError):
            restricted_loads(bytes(data), 'file')
    assert set(sys.modules) == modules


def test_plain_arrays_refuse_objects_and_wrong_sizes() -> None:
    with pytest.raises(SampleReadError, match='object'):
        parse_array(npy_of({'x': 1}), 'file')
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 4), np.float32))
    whole = stream.getvalue()
    assert parse_array(whole, 'file').shape == (3, 4)
    with pytest.raises(SampleReadError, match='44 bytes instead of 48'):
        parse_array(whole[:-4], 'file')
    # A header that announces petabytes costs nothing.
    huge = whole.replace(b'(3, 4), }' + b' ' * 10, b'(10000000000, 400), }'[:19])
    with pytest.raises(SampleReadError):
        parse_array(huge, 'file')
