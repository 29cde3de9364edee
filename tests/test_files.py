"""Files appear whole or not at all."""

import os
import shutil
import socket
from types import SimpleNamespace

import pytest

from thinktwice.errors import WriteError
from thinktwice.files import link_atomically, write_atomically


def test_a_written_file_reads_back_and_its_folder_is_made(tmp_path):
    path = tmp_path / 'new' / 'file'
    write_atomically(path, lambda file: file.write(b'whole'))
    assert path.read_bytes() == b'whole'
    assert os.listdir(path.parent) == ['file']


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(WriteError, match='cannot make the folder .*file: a file is in its place'):
        write_atomically(tmp_path / 'file' / 'x', lambda file: file.write(b'x'))
    with pytest.raises(WriteError, match='cannot write .*: it is a folder'):
        write_atomically(tmp_path, lambda file: file.write(b'x'))


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')

    def stop_half_way(file):
        file.write(b'half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, stop_half_way)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('kind', [OSError, RuntimeError])
def test_full_disk_is_one_error_and_the_old_file_survives(tmp_path, monkeypatch, kind):
    path = tmp_path / 'file'
    path.write_bytes(b'old')

    def fill_up(file):
        file.write(b'half')
        raise kind('No space left on device')

    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=12_500_000))
    with pytest.raises(
        WriteError, match=r'cannot write .*No space left on device \(12\.5 MB are free there\)\. Free'
    ):
        write_atomically(path, fill_up)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_temporary_file_names_the_host_and_process_that_writes_it(tmp_path):
    names = []
    write_atomically(tmp_path / 'file', lambda file: names.extend(os.listdir(tmp_path)))
    assert names == [f'.file.{socket.gethostname()}.{os.getpid()}.tmp']


def test_a_link_replaces_the_old_file_and_outlives_its_source(tmp_path):
    source, path = tmp_path / 'source', tmp_path / 'link'
    source.write_bytes(b'new')
    path.write_bytes(b'old')
    assert link_atomically(source, path)
    assert os.path.samefile(source, path)
    assert link_atomically(source, path)  # a second time
    source.unlink()
    assert path.read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['link']


@pytest.mark.parametrize('reason', ['no hard links', 'no source', 'no rename'])
def test_a_link_that_is_not_possible_leaves_the_old_file(tmp_path, monkeypatch, reason):
    source, path = tmp_path / 'source', tmp_path / 'link'
    path.write_bytes(b'old')
    if reason != 'no source':
        source.write_bytes(b'new')

    def refuse(*arguments):
        raise OSError(reason)

    monkeypatch.setattr(os, {'no hard links': 'link', 'no rename': 'replace'}.get(reason, 'truncate'), refuse)
    assert not link_atomically(source, path)
    assert path.read_bytes() == b'old'
    assert set(os.listdir(tmp_path)) == {'link'} | ({'source'} if source.exists() else set())
