"""Packed routes: what is written is read, damaged and hostile files are refused."""

import errno
import json
import multiprocessing
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thinktwice.datasets.storage import DatasetStorage, SampleReadError
from thinktwice.datasets.storage.route_zip import OpenRoutes, RouteZip, write_route
from thinktwice.errors import WriteError

SUFFIXES = {'a': 'jpg', 'b': 'json'}
MEGABYTE = 2**20


def frame_of(number: int) -> dict[str, bytes]:
    return {'a': f'first {number}'.encode() * 50, 'b': f'second {number}'.encode()}


def write_file(path: Path, frames: int = 3) -> None:
    write_route(path, {'route': 'made up'}, SUFFIXES, ((frame_of(frame), {}) for frame in range(frames)))


def read_file(path: Path) -> list[dict[str, bytes]]:
    route = RouteZip(str(path))
    try:
        return [{name: route.read(name, i) for name in route.suffixes} for i in range(route.num_frames)]
    finally:
        route.close()


def test_members_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / 'town' / 'x.zip'
    write_file(path)
    assert read_file(path) == [frame_of(i) for i in range(3)]
    route = RouteZip(str(path))
    assert route.description['route'] == 'made up' and route.num_frames == 3
    for folder, frame in (('a', 3), ('a', -1), ('c', 0), ('../a', 0)):
        with pytest.raises(SampleReadError, match='not in the packed route') as caught:
            route.read(folder, frame)
        assert caught.value.missing
    route.close()


def test_a_packed_route_is_opened_by_other_tools(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [f'{folder}/000{i}.{suffix}' for i in range(3) for folder, suffix in SUFFIXES.items()]
        assert archive.namelist() == [*names, 'route.json']
        assert archive.read('a/0001.jpg') == frame_of(1)['a']
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(tmp_path)
    assert (tmp_path / 'b/0002.json').read_bytes() == frame_of(2)['b']


def test_an_unusable_file_of_the_source_is_listed_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'
    write_route(path, {}, SUFFIXES, [({'b': b'here'}, {'a': 'truncated'}), ({}, {'a': 'gone', 'b': 'gone'})])
    route = RouteZip(str(path))
    assert route.read('b', 0) == b'here' and route.num_frames == 2
    for folder, frame, reason in (('a', 0, 'truncated'), ('a', 1, 'gone'), ('b', 1, 'gone')):
        with pytest.raises(SampleReadError, match=f'unusable when packed: {reason}') as caught:
            route.read(folder, frame)
        assert not caught.value.missing
    route.close()


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'

    def frames() -> Any:
        yield frame_of(0), {}
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(WriteError, match=r'x\.zip: .*No space'):
        write_route(path, {}, SUFFIXES, frames())
    assert list(tmp_path.iterdir()) == []
    write_file(path)
    with pytest.raises(WriteError, match='No space'):
        write_route(path, {}, SUFFIXES, frames())
    assert read_file(path) == [frame_of(i) for i in range(3)]


def test_damage_of_any_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    original = path.read_bytes()
    expected = [frame_of(i) for i in range(3)]
    refused = 0
    for position in range(0, len(original), 3):
        damaged = bytearray(original)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        try:
            # dates, attributes and what repeats the directory may change
            assert read_file(path) == expected
        except SampleReadError as error:
            assert str(path) in error.path
            refused += 1
    assert refused > 0.7 * len(original) / 3


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SampleReadError, match='truncated') as caught:
            RouteZip(str(path))
        assert caught.value.path == str(path) and not caught.value.missing
    path.unlink()
    with pytest.raises(SampleReadError, match='does not exist') as caught:
        RouteZip(str(path))
    assert caught.value.missing


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    route = RouteZip(str(path))
    os.truncate(path, 100)
    with pytest.raises(SampleReadError, match='truncated while'):
        route.read('a', 2)
    route.close()


def rewrite(path: Path, change: Callable[..., None], **description: Any) -> None:
    """Write a route anew with the standard library, with changes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members['route.json'] = json.dumps({**json.loads(members['route.json']), **description}).encode()
    with zipfile.ZipFile(path, 'w') as archive:
        change(archive, members)
        for name, content in members.items():
            archive.writestr(name, content)


def nothing(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    pass


def add(name: str) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    return lambda archive, members: archive.writestr(name, b'more')


def remove(name: str) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    return lambda archive, members: members.pop(name) and None


def deflate(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    archive.writestr('a/0000.jpg', members.pop('a/0000.jpg') + bytes(MEGABYTE), zipfile.ZIP_DEFLATED)


def remove_all(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    for name in set(members) - {'route.json'}:
        members.pop(name)


def garble_description(archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    members['route.json'] = b'[' * 100_000


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize(
    ('change', 'description', 'message'),
    [
        (add('../../escape'), {}, '7 members, 6 are listed'),
        (add('/etc/passwd'), {}, '7 members, 6 are listed'),
        (add('a/0000.jpg'), {}, 'two members of one name'),
        (remove('a/0001.jpg'), {}, '5 members, 6 are listed'),
        (remove('route.json'), {}, 'not a packed route'),
        (deflate, {}, r'a/0000\.jpg: compressed'),
        (garble_description, {}, 'not readable as JSON'),
        (nothing, {'frames': 10**12}, r'6 members, 2000000000000 are listed'),
        (nothing, {'frames': -3}, 'are listed'),
        (nothing, {'frames': 'three'}, r'route\.json: damaged'),
        (remove_all, {'frames': 10**30, 'suffixes': {}}, r'route\.json: damaged \(no folders'),
        (nothing, {'suffixes': 3}, r'route\.json: damaged'),
        (nothing, {'suffixes': {'a': 'jpg', 'b': 4}}, r'route\.json: damaged'),
        (nothing, {'suffixes': {'a': 'jpg', '../b': 'json'}}, r'\.\./b/0000: missing from the file'),
        (nothing, {'damaged': {'a/0000': 'x'}}, '6 members, 5 are listed'),
        (remove('a/0001.jpg'), {'damaged': {'a/0000': 'x'}}, 'a/0000: missing .* or wrongly listed'),
    ],
)
def test_hostile_members_and_descriptions_are_refused(
    tmp_path: Path, change: Callable[..., None], description: dict[str, Any], message: str
) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    rewrite(path, nothing)
    assert read_file(path) == [frame_of(i) for i in range(3)]
    rewrite(path, change, **description)
    with pytest.raises(SampleReadError, match=message) as caught:
        RouteZip(str(path))
    assert caught.value.path.startswith(str(path))


@pytest.mark.parametrize('shift', [1000, 0x7FFFFFFF])
def test_members_before_the_file_are_refused(tmp_path: Path, shift: int) -> None:
    """A directory that announces a later start than its own: zipfile subtracts the difference."""
    path = tmp_path / 'x.zip'
    write_file(path)
    data = bytearray(path.read_bytes())
    for position in (data.index(b'PK\x05\x06') + 16, data.rindex(b'PK\x01\x02') + 42):
        (value,) = struct.unpack_from('<I', data, position)
        struct.pack_into('<I', data, position, value + shift)
    path.write_bytes(data)
    with pytest.raises(SampleReadError, match='outside the file'):
        RouteZip(str(path))


@pytest.mark.parametrize('size', [40 * MEGABYTE, 0xFFFFFFF0])
def test_absurd_sizes_are_refused_before_memory_is_allocated(tmp_path: Path, size: int) -> None:
    path = tmp_path / 'x.zip'
    write_file(path)
    original = path.read_bytes()
    end, directory = original.index(b'PK\x05\x06'), original.index(b'PK\x01\x02')

    def check(data: bytes) -> None:
        path.write_bytes(data)
        os.truncate(path, len(data))
        tracemalloc.start()
        try:
            with pytest.raises(SampleReadError, match=str(path)):
                read_file(path)
            assert tracemalloc.get_traced_memory()[1] < 2 * MEGABYTE
        finally:
            tracemalloc.stop()

    announced = struct.pack('<I', size)
    for position in (end + 12, directory + 20, directory + 24, directory + 42):
        check(original[:position] + announced + original[position + 4 :])
    # sizes of a member that agree with each other
    check(original[: directory + 20] + announced * 2 + original[directory + 28 :])
    # a file large enough for a directory of that size
    with open(path, 'wb') as file:
        file.seek(50 * MEGABYTE)
        file.write(original[end : end + 12] + struct.pack('<I', 40 * MEGABYTE) + original[end + 16 :])
    tracemalloc.start()
    try:
        with pytest.raises(SampleReadError, match='a directory of 41943040 bytes'):
            RouteZip(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_many_members_and_large_offsets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 65,535 members and 4 GiB the directory has another form (ZIP64)."""
    path = tmp_path / 'x.zip'
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, 'ZIP_FILECOUNT_LIMIT', 4)
        write_file(path)
    assert b'PK\x06\x06' in path.read_bytes()
    assert read_file(path) == [frame_of(i) for i in range(3)]
    start = 2**32 + 5
    with open(path, 'wb') as file:  # a sparse file: what lies before the archive costs no space
        file.seek(start)
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('a/0000.json', b'far')
            archive.writestr(
                'route.json', json.dumps({'frames': 1, 'suffixes': {'a': 'json'}, 'damaged': {}})
            )
    route = RouteZip(str(path))
    assert route.read('a', 0) == b'far'
    route.close()


def open_files() -> int:
    return len(os.listdir('/proc/self/fd'))


def test_open_files_are_bounded_and_directories_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / f'{i}.zip') for i in range(5)]
    for path in paths:
        write_file(Path(path))
    routes, before = OpenRoutes(limit=2), open_files()
    for path in paths:
        assert routes.get(path).read('b', 1) == b'second 1'
    assert open_files() == before + 2
    with monkeypatch.context() as patch:
        patch.setattr(RouteZip, '_read_directory', lambda self: pytest.fail('read again'))
        for path in [*paths, *paths]:
            assert routes.get(path).read('b', 2) == b'second 2'
    assert open_files() == before + 2
    write_file(Path(paths[0]), frames=4)
    assert routes.get(paths[0]).num_frames == 4, 'a replaced file is read anew'


def read_elsewhere(routes: OpenRoutes, path: str, queue: Any) -> None:
    queue.put([routes.get(path).read('b', i % 3) for i in range(300)])


def test_forked_processes_read_at_the_same_time(tmp_path: Path) -> None:
    path = str(tmp_path / 'x.zip')
    write_file(Path(path))
    routes = OpenRoutes()
    routes.get(path).read('a', 0)
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    workers = [context.Process(target=read_elsewhere, args=(routes, path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    expected = [f'second {i % 3}'.encode() for i in range(300)]
    assert [routes.get(path).read('b', i % 3) for i in range(300)] == expected
    assert [queue.get(timeout=60) for _ in workers] == [expected, expected]
    for worker in workers:
        worker.join(60)


def test_spawned_processes_open_their_own_files(tmp_path: Path) -> None:
    path = str(tmp_path / 'x.zip')
    write_file(Path(path))
    routes = OpenRoutes()
    routes.get(path).read('a', 0)
    assert pickle.loads(pickle.dumps(routes)).get(path).read('b', 0) == b'second 0'


def test_a_dataset_of_the_first_packed_format_must_be_packed_again(tmp_path: Path) -> None:
    (tmp_path / 'packed.json').write_text('{"format_version": 1, "settings": {}}')
    (tmp_path / 'town01_00').mkdir()
    (tmp_path / 'town01_00/x.ttroute').write_bytes(b'TTROUTE1')
    for content in (None, '[]', '{}'):
        if content:
            (tmp_path / 'packed.json').write_text(content)
        with pytest.raises(SampleReadError, match=r'packed\.json: .*pack the recorded .*again') as caught:
            DatasetStorage(tmp_path)
        assert '\n' not in str(caught.value)
