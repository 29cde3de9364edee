"""Which checkpoint of a folder is the newest, and what is pruned, moved aside and removed."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from thinktwice.checkpoint import run_folder
from thinktwice.checkpoint.file import load_checkpoint, save_checkpoint
from thinktwice.checkpoint.run_folder import (
    find_latest_checkpoint,
    move_run_aside,
    prune_checkpoints,
    read_best_score,
    remove_leftovers,
    write_best_score,
    write_pointer,
)
from thinktwice.errors import WriteError


def save(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    save_checkpoint({'state_dict': {'w': torch.full((500,), value)}, 'meta': {'iter': 3}}, path)
    return path


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('was_run',)


@pytest.mark.parametrize('damage', ['torn', 'flipped', 'empty'])
def test_damaged_newest_checkpoint_is_skipped(tmp_path, damage, caplog):
    older = save(tmp_path, 'iter_3.pth')
    newest = save(tmp_path, 'iter_6.pth')
    write_pointer(tmp_path, newest.name)
    os.utime(older, ns=(0, 0))
    content = bytearray(newest.read_bytes())
    if damage == 'flipped':
        position = bytes(content).find(torch.ones(500).numpy().tobytes()) + 40
        content[position] ^= 255
    newest.write_bytes({'torn': content[:-200], 'flipped': content, 'empty': b''}[damage])
    assert find_latest_checkpoint(tmp_path) == older


def test_pointer_decides_which_is_newest(tmp_path):
    first, second = save(tmp_path, 'iter_9.pth'), save(tmp_path, 'epoch_1.pth')
    write_pointer(tmp_path, first.name)
    assert find_latest_checkpoint(tmp_path) == first
    write_pointer(tmp_path, second.name)
    assert find_latest_checkpoint(tmp_path) == second


def test_best_checkpoint_is_not_the_newest(tmp_path):
    save(tmp_path, 'best_ade.pth')
    assert find_latest_checkpoint(tmp_path) is None
    assert find_latest_checkpoint(tmp_path / 'missing') is None


@pytest.mark.parametrize('garbage', [bytes(range(128, 256)), b'\0' * 12, b'', b'x' * 5000])
def test_garbled_pointer_is_ignored(tmp_path, garbage):
    older, newest = save(tmp_path, 'iter_3.pth'), save(tmp_path, 'iter_6.pth')
    os.utime(older, ns=(0, 0))
    (tmp_path / 'last_checkpoint').write_bytes(garbage)
    assert find_latest_checkpoint(tmp_path) == newest


def test_no_flipped_bit_of_the_list_of_records_goes_unnoticed_or_raises(tmp_path):
    content = save(tmp_path, 'good.pth').read_bytes()
    good = load_checkpoint(tmp_path / 'good.pth')
    first = content.index(b'PK\1\2')
    tensor = content.rindex(b'PK\1\2', 0, content.index(b'data/0', first))
    path = tmp_path / 'iter_3.pth'
    noticed = 0
    for bit in [*range(8 * first, 8 * first + 46 * 8), *range(8 * tensor, 8 * tensor + 60 * 8)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if find_latest_checkpoint(tmp_path) is None:
            noticed += 1
        else:
            found = load_checkpoint(path)
            assert found['meta'] == good['meta'], bit
            assert torch.equal(found['state_dict']['w'], good['state_dict']['w']), bit
    assert noticed > 300


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [({'state_dict': 5}, 'its state_dict is of type int'), ({'meta': 7}, 'its meta is of type int')],
)
def test_newest_checkpoint_that_cannot_be_used_is_skipped(tmp_path, damage, reason, monkeypatch):
    said = []
    monkeypatch.setattr(run_folder, 'print_log', lambda text, **options: said.append(text))
    older = save(tmp_path, 'iter_3.pth')
    os.utime(older, ns=(0, 0))
    torch.save({'state_dict': {'w': torch.ones(1)}, **damage}, tmp_path / 'iter_6.pth')
    assert find_latest_checkpoint(tmp_path) == older
    assert len(said) == 1 and reason in said[0]


def test_newest_checkpoint_that_is_not_to_be_trusted_is_not_skipped(tmp_path):
    os.utime(save(tmp_path, 'iter_3.pth'), ns=(0, 0))
    torch.save({'state_dict': {'w': torch.ones(1)}, 'extra': RunsCode()}, tmp_path / 'iter_6.pth')
    assert find_latest_checkpoint(tmp_path) == tmp_path / 'iter_6.pth'


@pytest.fixture
def dead_process():
    """Id of a process that has ended."""
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid


def test_temporary_files_are_removed_unless_their_process_lives(tmp_path, dead_process):
    host = socket.gethostname()
    living = os.getppid()
    kept = [
        save(tmp_path, 'iter_3.pth'),
        tmp_path / f'.iter_6.pth.{host}.{living}.tmp',
        tmp_path / f'.last_checkpoint.{host}.{living}.tmp',
        tmp_path / f'.best_ade.json.{host}.{living}.tmp',
        tmp_path / f'.iter_6.pth.another-{host}.{dead_process}.tmp',
    ]
    leftovers = [
        tmp_path / f'.config.py.{host}.{dead_process}.tmp',
        tmp_path / f'.iter_3.pth.{host}.{dead_process}.tmp',
        tmp_path / f'.last_checkpoint.{host}.{dead_process}.tmp',
        tmp_path / f'.best_ade.json.{host}.{dead_process}.tmp',
        tmp_path / f'.iter_3.pth.{host}.{os.getpid()}.tmp',
        tmp_path / '.iter_3.pth.of-yesterday.77.tmp',
    ]
    for path in [*kept[1:], *leftovers]:
        path.write_bytes(b'x')
    yesterday = time.time() - 25 * 3600
    os.utime(leftovers[-1], (yesterday, yesterday))
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)


def test_checkpoints_are_moved_aside_and_nothing_else_is(tmp_path):
    moved = {save(tmp_path, name).name for name in ('epoch_1.pth', 'iter_3.pth', 'best_ade.pth')}
    write_pointer(tmp_path, 'iter_3.pth')
    write_best_score(tmp_path, 'ade', 0.5)
    save(tmp_path, 'mine.pth')
    first = move_run_aside(tmp_path)
    assert {path.name for path in first.iterdir()} == moved | {'last_checkpoint', 'best_ade.json'}
    assert move_run_aside(tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {'mine.pth', first.name}
    assert find_latest_checkpoint(tmp_path) is None
    assert find_latest_checkpoint(first) == first / 'iter_3.pth'
    save(tmp_path, 'epoch_1.pth', 2.0)
    second = move_run_aside(tmp_path)  # within the same second
    assert second != first
    assert load_checkpoint(first / 'epoch_1.pth')['state_dict']['w'][0] == 1.0
    assert load_checkpoint(second / 'epoch_1.pth')['state_dict']['w'][0] == 2.0


def test_earlier_run_that_cannot_be_moved_is_a_write_error(tmp_path, monkeypatch):
    save(tmp_path, 'epoch_1.pth')

    def refuse(path, target):
        raise PermissionError('not permitted')

    monkeypatch.setattr(Path, 'rename', refuse)
    with pytest.raises(WriteError, match='cannot be moved.*--resume'):
        move_run_aside(tmp_path)


@pytest.mark.parametrize(
    ('keep', 'left'),
    [
        ({'epoch': 2, 'iter': 1}, {'epoch_10.pth', 'epoch_9.pth', 'iter_100.pth'}),
        ({'epoch': -1, 'iter': 0}, {'epoch_2.pth', 'epoch_9.pth', 'epoch_10.pth'}),
        ({'epoch': 0, 'iter': -1}, {'epoch_10.pth', 'iter_9.pth', 'iter_100.pth'}),
    ],
)
def test_pruning_counts_by_number_and_keeps_the_newest_and_all_other_files(tmp_path, keep, left):
    names = {'epoch_2.pth', 'epoch_9.pth', 'epoch_10.pth', 'iter_9.pth', 'iter_100.pth'}
    others = {'best_ade.pth', 'epoch_mine.pth', 'last_checkpoint'}
    for name in names | others:
        (tmp_path / name).touch()
    assert set(prune_checkpoints(tmp_path, keep, 'epoch_10.pth')) == names - left
    assert {path.name for path in tmp_path.iterdir()} == left | others


def test_best_score_lies_beside_the_best_checkpoint(tmp_path):
    write_best_score(tmp_path, 'open_loop/ade', 0.25)
    assert read_best_score(tmp_path, 'open_loop/ade') is None  # there is no checkpoint with that score
    save(tmp_path, 'best_open_loop_ade.pth')
    assert read_best_score(tmp_path, 'open_loop/ade') == 0.25
    assert read_best_score(tmp_path, 'open_loop/fde') is None
    content = json.loads((tmp_path / 'best_open_loop_ade.json').read_text())
    assert content == {'metric': 'open_loop/ade', 'score': 0.25}


def test_best_checkpoint_of_an_earlier_version_holds_its_score(tmp_path):
    hooks = {'AtomicCheckpointHook': {'best_score': 0.75}}
    save_checkpoint({'state_dict': {'w': torch.ones(1)}, 'hooks': hooks}, tmp_path / 'best_ade.pth')
    assert read_best_score(tmp_path, 'ade') == 0.75


@pytest.mark.parametrize('text', ['', '[]', '{"score": null}', '{"score": NaN}', '{"score": "low"}'])
def test_garbled_best_score_is_unknown(tmp_path, text):
    save(tmp_path, 'best_ade.pth')
    (tmp_path / 'best_ade.json').write_text(text)
    assert read_best_score(tmp_path, 'ade') is None
