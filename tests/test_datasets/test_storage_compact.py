"""Small forms of sweeps and teacher outputs: error bounds, damaged and hostile files."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.tiny_dataset import supervision_of

from thinktwice.datasets.storage import SampleReadError, parse_npz
from thinktwice.datasets.storage.frame_files import (
    decode_points,
    decode_supervision,
    encode_points,
    encode_supervision,
)

MEGABYTE = 2**20


def sweep(count: int = 5000) -> np.ndarray:
    generator = np.random.default_rng(0)
    points = generator.uniform(-85, 85, (count, 4)).astype(np.float32)
    points[:, 3] = np.exp(-0.004 * np.linalg.norm(points[:, :3], axis=1))
    return points


def test_points_keep_their_order_and_stay_within_the_stated_errors() -> None:
    points = sweep()
    unpacked = decode_points(encode_points(points), 'file')
    assert unpacked.dtype == np.float32 and unpacked.shape == points.shape
    reach = np.abs(points[:, :3]).max()
    assert np.abs(unpacked - points)[:, :3].max() <= reach / 65534 * 1.01 <= 0.0014
    assert np.abs(unpacked - points)[:, 3].max() <= np.ptp(points[:, 3]) / 510 * 1.01 <= 0.001


@pytest.mark.parametrize('points', [np.zeros((1, 4)), np.full((3, 4), 2.0), np.full((2, 4), -1e-3)])
def test_degenerate_sweeps_survive(points: np.ndarray) -> None:
    points = points.astype(np.float32)
    np.testing.assert_allclose(decode_points(encode_points(points), 'file'), points, rtol=1e-6)


def test_packed_points_are_well_below_their_raw_size() -> None:
    assert len(encode_points(sweep())) < 0.5 * sweep().nbytes


def test_supervision_keeps_all_but_the_precision_of_maps() -> None:
    values = {**supervision_of(3), 'target_command': np.array([4], np.int8), 'speed': 0.1}
    unpacked = decode_supervision(encode_supervision(values, (2, 3, 5)), 'file')
    assert unpacked.keys() == values.keys()
    for key in ('action_mu', 'action_sigma', 'features', 'value', 'target_command', 'speed'):
        np.testing.assert_array_equal(unpacked[key], values[key])
        assert np.asarray(unpacked[key]).dtype == np.asarray(values[key]).dtype
    assert isinstance(unpacked['only_ap_brake'], np.bool_)
    assert bool(unpacked['only_ap_brake']) is values['only_ap_brake']
    for level in (2, 3, 5):
        np.testing.assert_allclose(
            unpacked['cnn_features'][level], values['cnn_features'][level], rtol=2**-11, atol=3e-8
        )
        assert unpacked['cnn_features'][level].dtype == np.float32
    assert [unpacked['cnn_features'][level] for level in (0, 1, 4)] == [None] * 3


def test_maps_beyond_half_precision_are_kept_whole() -> None:
    values = supervision_of(0)
    values['cnn_features'][2] = values['cnn_features'][2] * np.float32(1e6)
    unpacked = decode_supervision(encode_supervision(values, (2,)), 'file')
    np.testing.assert_array_equal(unpacked['cnn_features'][2], values['cnn_features'][2])


@pytest.mark.parametrize('value', ['text', None, [1, 2], np.array([None])])
def test_supervision_other_than_numbers_is_not_packed(value: Any) -> None:
    with pytest.raises(ValueError, match='note is .*only numbers'):
        encode_supervision({**supervision_of(0), 'note': value}, (2,))


def test_small_forms_are_read_by_numpy() -> None:
    arrays = np.load(io.BytesIO(encode_points(sweep())), allow_pickle=False)
    assert arrays['coordinate_differences'].shape == (3, 5000) and arrays['intensity'].dtype == np.uint8
    arrays = np.load(io.BytesIO(encode_supervision(supervision_of(0), (2,))), allow_pickle=False)
    assert arrays['cnn_features_2'].dtype == np.float16


def test_a_damaged_npz_file_is_reported() -> None:
    data = encode_points(sweep(20))
    generator = np.random.default_rng(0)
    expected = decode_points(data, 'file')
    for length in range(len(data)):
        with pytest.raises(SampleReadError, match='file.*damaged'):
            decode_points(data[:length], 'file')
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[generator.integers(0, len(data))] ^= int(generator.integers(1, 256))
        try:
            # dates and attributes of members may change
            np.testing.assert_array_equal(decode_points(bytes(damaged), 'file'), expected)
        except SampleReadError as error:
            assert error.path.startswith('file')
            refused += 1
    assert refused > 150


def npz_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def npy_of(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def announced_size(data: bytes, size: int) -> bytes:
    """The file with another size of its only member in the directory and in the member's header."""
    changed = bytearray(data)
    directory = data.index(b'PK\x01\x02')
    changed[22:26] = changed[directory + 24 : directory + 28] = struct.pack('<I', size)
    return bytes(changed)


ZEROS = bytes(20 * MEGABYTE)
HOSTILE_NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    'bomb': (lambda: npz_of(*((f'{i}.npy', ZEROS) for i in range(4))), 'bytes of arrays'),
    'hidden bomb': (lambda: announced_size(npz_of(('x.npy', ZEROS)), 1000), 'damaged'),
    'bzip2 bomb': (
        lambda: announced_size(npz_of(('x.npy', ZEROS), compression=zipfile.ZIP_BZIP2), 1000),
        'method of compression',
    ),
    'terabytes': (
        lambda: npz_of(
            ('x.npy', npy_of(np.zeros((3, 4))).replace(b'(3, 4), }' + b' ' * 12, b'(3, 4000000000000), }'))
        ),
        '96 bytes instead of 96000000000000',
    ),
    'objects': (lambda: npz_of(('x.npy', npy_of(np.array([None])))), 'object instead of plain numbers'),
    'duplicates': (lambda: npz_of(('x.npy', npy_of(1)), ('x.npy', npy_of(2))), 'of one name'),
    'too large': (lambda: bytes(9 * MEGABYTE), 'an npz file of'),
    'no archive': (lambda: b'', 'damaged npz'),
}


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('name', HOSTILE_NPZ)
def test_a_hostile_npz_file_is_refused_without_large_allocations(name: str) -> None:
    make, message = HOSTILE_NPZ[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(SampleReadError, match=message) as caught:
            parse_npz(data, 'file')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.path.startswith('file')
    assert peak < 2 * MEGABYTE
