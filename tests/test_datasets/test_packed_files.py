"""Files of the packed format: error bounds, resuming, damage of every kind."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_dataset import supervision_of

from thinktwice.datasets.storage import RouteFileReader, RouteFileWriter, SampleReadError
from thinktwice.datasets.storage.codecs import (
    decode_arrays,
    decode_points,
    decode_supervision,
    encode_arrays,
    encode_points,
    encode_supervision,
)

HEADER = {'folders': ['a', 'b'], 'route': 'made up'}


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
    values = {**supervision_of(3), 'target_command': np.array([4], np.int8)}
    unpacked = decode_supervision(encode_supervision(values, (2, 3, 5)), 'file')
    assert unpacked.keys() == values.keys()
    for key in ('action_mu', 'action_sigma', 'features', 'value', 'target_command'):
        np.testing.assert_array_equal(unpacked[key], values[key])
    assert unpacked['only_ap_brake'] is values['only_ap_brake']
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


def test_damaged_records_are_reported() -> None:
    data = encode_arrays({'a': np.arange(5, dtype=np.int16), 'b': 'text'})
    assert decode_arrays(data, 'file')['a'].tolist() == [0, 1, 2, 3, 4]
    generator = np.random.default_rng(0)
    for length in range(len(data)):
        with pytest.raises(SampleReadError, match='file: damaged packed record'):
            decode_arrays(data[:length], 'file')
    for _ in range(200):
        damaged = bytearray(data)
        damaged[generator.integers(2, len(data))] ^= int(generator.integers(1, 256))
        with pytest.raises(SampleReadError, match='file: damaged packed record'):
            decode_arrays(bytes(damaged), 'file')


def frame_of(number: int) -> dict[str, bytes]:
    return {'a': f'first {number}'.encode() * 50, 'b': f'second {number}'.encode()}


def write_file(path: Path, frames: int = 3, finish: bool = True) -> None:
    with RouteFileWriter(path, HEADER) as writer:
        for frame in range(writer.frames, frames):
            writer.append(frame_of(frame))
        if finish:
            writer.finish()


def read_file(path: Path) -> list[dict[str, bytes]]:
    file = RouteFileReader(str(path))
    frames = [{n: file.read(n, i) for n in file.folders if file.has(n, i)} for i in range(file.num_frames)]
    file.close()
    return frames


def test_records_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / 'town' / 'x.ttroute'
    write_file(path)
    assert read_file(path) == [frame_of(i) for i in range(3)]
    file = RouteFileReader(str(path))
    assert file.header['route'] == 'made up' and file.num_frames == 3
    for folder, frame in (('a', 3), ('a', -1), ('c', 0)):
        with pytest.raises(SampleReadError, match='does not hold') as caught:
            file.read(folder, frame)
        assert caught.value.missing
    file.close()


def test_an_absent_record_is_missing_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    with RouteFileWriter(path, HEADER) as writer:
        writer.append({'b': b'here'})
        writer.append({})
        writer.finish()
    assert read_file(path) == [{'b': b'here'}, {}]


@pytest.mark.parametrize('cut', [0, 5, 40, 90, 200, 700, 5000])
def test_a_torn_file_goes_on_after_its_last_whole_frame(tmp_path: Path, cut: int) -> None:
    path, whole = tmp_path / 'x.ttroute', tmp_path / 'whole.ttroute'
    write_file(whole, frames=8)
    write_file(path, frames=8, finish=False)
    partial = path.with_name('x.ttroute.partial')
    data = partial.read_bytes()
    partial.write_bytes(data[: max(0, len(data) - cut)] + b'\xff' * min(cut, 30))
    with RouteFileWriter(path, HEADER) as writer:
        assert writer.frames == (8 if cut == 0 else writer.frames) and writer.frames <= 8
        assert cut == 0 or writer.frames < 8
        assert cut > 700 or writer.frames > 4
        for frame in range(writer.frames, 8):
            writer.append(frame_of(frame))
        writer.finish()
    assert path.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_partial_file_of_other_settings_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    write_file(path, finish=False)
    with RouteFileWriter(path, {**HEADER, 'route': 'another'}) as writer:
        assert writer.frames == 0


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    writer = RouteFileWriter(path, HEADER)
    writer.append(frame_of(0))
    inner = writer._file

    class FullDisk:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def write(self, data: bytes) -> int:
            inner.write(data[: len(data) // 2])
            inner.flush()
            raise OSError(errno.ENOSPC, 'No space left on device')

    writer._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(OSError, match='No space'):
        writer.append(frame_of(1))
    writer.close()
    assert not path.exists()
    write_file(path)
    assert read_file(path) == [frame_of(i) for i in range(3)]


def test_damage_of_any_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    write_file(path)
    original = path.read_bytes()
    expected = [frame_of(i) for i in range(3)]
    for position in range(0, len(original), 7):
        damaged = bytearray(original)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        try:
            # Marks between the records are not read: they serve resuming only.
            assert read_file(path) == expected
        except SampleReadError as error:
            assert str(path) in error.path


@pytest.mark.parametrize('length', [0, 4, 30, 200, -1, -40])
def test_a_truncated_file_is_an_error_and_not_a_crash(tmp_path: Path, length: int) -> None:
    path = tmp_path / 'x.ttroute'
    write_file(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SampleReadError, match=str(path)):
        RouteFileReader(str(path))


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    write_file(path)
    file = RouteFileReader(str(path))
    os.truncate(path, 100)
    with pytest.raises(SampleReadError, match='truncated while'):
        file.read('a', 2)
    file.close()


def test_hostile_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'x.ttroute'
    for header in ({'folders': 3}, {'folders': ['a'], 'format_version': 99}):
        with RouteFileWriter(path, {**HEADER, **header, 'folders': ['a']}) as writer:
            writer.finish()
        data = path.read_bytes()
        if header['folders'] == 3:
            data = data.replace(json.dumps(['a']).encode(), b'    3')
        path.write_bytes(data)
        with pytest.raises(SampleReadError, match='damaged header|format version 99'):
            RouteFileReader(str(path))


def test_pickled_readers_open_their_own_files(tmp_path: Path) -> None:
    from thinktwice.datasets.storage.packed import OpenRouteFiles

    paths = [tmp_path / f'{i}.ttroute' for i in range(5)]
    for path in paths:
        write_file(path)
    files = OpenRouteFiles(limit=2)
    for path in [*paths, *paths]:
        assert files.get(str(path)).read('b', 1) == b'second 1'
    assert len(os.listdir('/proc/self/fd')) < 1000 and len(files._files) == 2
    assert pickle.loads(pickle.dumps(files)).get(str(paths[0])).read('b', 0) == b'second 0'
