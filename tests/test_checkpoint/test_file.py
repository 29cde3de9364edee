"""Checkpoint files appear whole or not at all, damage is noticed, and nothing in them is run."""

import os
import pickle
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from thinktwice.checkpoint import file as checkpoint_io
from thinktwice.errors import CheckpointError


def save(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    checkpoint_io.save_checkpoint({'state_dict': {'w': torch.full((500,), value)}, 'meta': {'iter': 3}}, path)
    return path


def test_saved_checkpoint_reads_back(tmp_path):
    checkpoint = checkpoint_io.load_checkpoint(save(tmp_path, 'iter_3.pth', 7.0))
    assert checkpoint['meta'] == {'iter': 3}
    assert torch.equal(checkpoint['state_dict']['w'], torch.full((500,), 7.0))


@pytest.mark.parametrize('damage', ['torn', 'flipped', 'empty'])
def test_damaged_newest_checkpoint_is_passed_over(tmp_path, damage, caplog):
    older = save(tmp_path, 'iter_3.pth')
    newest = save(tmp_path, 'iter_6.pth')
    checkpoint_io.write_pointer(tmp_path, newest.name)
    os.utime(older, ns=(0, 0))
    content = bytearray(newest.read_bytes())
    if damage == 'flipped':
        position = bytes(content).find(torch.ones(500).numpy().tobytes()) + 40
        content[position] ^= 255
    newest.write_bytes({'torn': content[:-200], 'flipped': content, 'empty': b''}[damage])
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == older


def test_pointer_decides_which_is_newest(tmp_path):
    first, second = save(tmp_path, 'iter_9.pth'), save(tmp_path, 'epoch_1.pth')
    checkpoint_io.write_pointer(tmp_path, first.name)
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == first
    checkpoint_io.write_pointer(tmp_path, second.name)
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == second


def test_best_checkpoint_is_no_place_to_resume(tmp_path):
    save(tmp_path, 'best_ade.pth')
    assert checkpoint_io.find_latest_checkpoint(tmp_path) is None
    assert checkpoint_io.find_latest_checkpoint(tmp_path / 'missing') is None


@pytest.mark.parametrize('garbage', [bytes(range(128, 256)), b'\0' * 12, b'', b'x' * 5000])
def test_garbled_pointer_is_ignored(tmp_path, garbage):
    older, newest = save(tmp_path, 'iter_3.pth'), save(tmp_path, 'iter_6.pth')
    os.utime(older, ns=(0, 0))
    (tmp_path / 'last_checkpoint').write_bytes(garbage)
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == newest


def test_no_flipped_bit_of_the_list_of_records_goes_unnoticed_or_raises(tmp_path):
    content = save(tmp_path, 'good.pth').read_bytes()
    good = checkpoint_io.load_checkpoint(tmp_path / 'good.pth')
    first = content.index(b'PK\1\2')
    tensor = content.rindex(b'PK\1\2', 0, content.index(b'data/0', first))
    path = tmp_path / 'iter_3.pth'
    noticed = 0
    for bit in [*range(8 * first, 8 * first + 46 * 8), *range(8 * tensor, 8 * tensor + 60 * 8)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if checkpoint_io.find_latest_checkpoint(tmp_path) is None:
            noticed += 1
        else:
            found = checkpoint_io.load_checkpoint(path)
            assert found['meta'] == good['meta'], bit
            assert torch.equal(found['state_dict']['w'], good['state_dict']['w']), bit
    assert noticed > 300


@pytest.mark.parametrize(
    ('damage', 'reason'), [({'state_dict': 5}, 'its state_dict is a int'), ({'meta': 7}, 'its meta is a int')]
)
def test_newest_checkpoint_that_cannot_be_used_is_passed_over(tmp_path, damage, reason, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint_io, 'print_log', lambda text, **options: said.append(text))
    older = save(tmp_path, 'iter_3.pth')
    os.utime(older, ns=(0, 0))
    torch.save({'state_dict': {}, **damage}, tmp_path / 'iter_6.pth')
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == older
    assert len(said) == 1 and reason in said[0]


def test_newest_checkpoint_that_is_not_to_be_trusted_is_not_passed_over(tmp_path):
    os.utime(save(tmp_path, 'iter_3.pth'), ns=(0, 0))
    torch.save({'state_dict': {}, 'extra': RunsCode()}, tmp_path / 'iter_6.pth')
    assert checkpoint_io.find_latest_checkpoint(tmp_path) == tmp_path / 'iter_6.pth'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': [1]}, 'its state_dict is a list, expected was a dict'),
        ({'state_dict': {1: torch.ones(1)}}, 'entry 1 of its state_dict is a Tensor'),
        ({'state_dict': {'w': 2}}, "entry 'w' of its state_dict is a int"),
        ({1: torch.ones(1)}, 'entry 1 of its state_dict'),
    ],
)
def test_weights_of_another_kind_are_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=message):
        checkpoint_io.load_checkpoint(tmp_path / 'odd.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'meta': 7}, 'its meta is a int, expected was a dict'),
        ({'optimizer': 3}, 'its optimizer is a int'),
        ({'param_schedulers': {}}, 'its param_schedulers is a dict, expected was a list'),
        ({'meta': {'iter': 'six'}}, r'its meta\.iter is a str, expected was a int'),
    ],
)
def test_training_state_of_another_kind_is_refused_in_one_line(content, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint_io.check_training_state('odd.pth', content)


@pytest.fixture
def dead_process():
    """Number of a process that has ended."""
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid


def test_leftovers_of_killed_writers_are_removed_and_files_being_written_are_not(tmp_path, dead_process):
    host = socket.gethostname()
    living = os.getppid()
    kept = [
        save(tmp_path, 'iter_3.pth'),
        tmp_path / f'.iter_6.pth.{host}.{living}.tmp',
        tmp_path / f'.last_checkpoint.{host}.{living}.tmp',
        tmp_path / f'.iter_6.pth.another-{host}.{dead_process}.tmp',
    ]
    leftovers = [
        tmp_path / f'.iter_3.pth.{host}.{dead_process}.tmp',
        tmp_path / f'.last_checkpoint.{host}.{dead_process}.tmp',
        tmp_path / f'.iter_3.pth.{host}.{os.getpid()}.tmp',
        tmp_path / '.iter_3.pth.of-yesterday.77.tmp',
    ]
    for path in [*kept[1:], *leftovers]:
        path.write_bytes(b'x')
    yesterday = time.time() - 25 * 3600
    os.utime(leftovers[-1], (yesterday, yesterday))
    checkpoint_io.remove_temporary_files(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)


def test_checkpoints_are_moved_aside_and_nothing_else_is(tmp_path):
    moved = {save(tmp_path, name).name for name in ('epoch_1.pth', 'iter_3.pth', 'best_ade.pth')}
    checkpoint_io.write_pointer(tmp_path, 'iter_3.pth')
    save(tmp_path, 'mine.pth')
    first = checkpoint_io.move_run_aside(tmp_path)
    assert {path.name for path in first.iterdir()} == moved | {'last_checkpoint'}
    assert checkpoint_io.move_run_aside(tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {'mine.pth', first.name}
    assert checkpoint_io.find_latest_checkpoint(tmp_path) is None
    assert checkpoint_io.find_latest_checkpoint(first) == first / 'iter_3.pth'
    save(tmp_path, 'epoch_1.pth', 2.0)
    second = checkpoint_io.move_run_aside(tmp_path)  # within the same second
    assert second != first
    assert checkpoint_io.load_checkpoint(first / 'epoch_1.pth')['state_dict']['w'][0] == 1.0
    assert checkpoint_io.load_checkpoint(second / 'epoch_1.pth')['state_dict']['w'][0] == 2.0


def test_checkpoint_of_mmengine_is_read_without_its_logs(tmp_path):
    hub = MessageHub.get_instance('checkpoint_io_test')
    for value in range(3):
        hub.update_scalar('train/loss', float(value))
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'w': torch.ones(2)}, 'message_hub': hub.state_dict()}, path)
    assert torch.equal(checkpoint_io.load_checkpoint(path)['state_dict']['w'], torch.ones(2))


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('was_run',)


def test_file_that_runs_code_is_refused_unless_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {}, 'extra': RunsCode()}, path)
    with pytest.raises(CheckpointError, match=r'holds more than weights .*mkdir.*--trust-checkpoint'):
        checkpoint_io.load_checkpoint(path)
    assert not (tmp_path / 'was_run').exists()
    checkpoint_io.load_checkpoint(path, trust=True)
    assert (tmp_path / 'was_run').exists()


class ReachesThroughGetattr:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__setstate__')


def test_stand_ins_for_mmengine_classes_give_no_way_to_code(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'extra': ReachesThroughGetattr()}, path)
    assert checkpoint_io.load_checkpoint(path)['extra'] is None


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize(
    ('content', 'reason'),
    [(b'', 'the file is empty'), (b'garbage ' * 9, '.+'), (b'PK\x03\x04' + bytes(90), '.+')],
)
def test_file_that_is_no_checkpoint_is_refused_in_a_few_words(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'not a checkpoint, or cut short \({reason}\)') as caught:
        checkpoint_io.load_checkpoint(tmp_path / name)
    words = str(caught.value).replace(str(tmp_path), '')
    assert len(words) < 200
    assert 'weights_only' not in words


def test_plain_state_dict_and_foreign_content(tmp_path):
    torch.save({'w': torch.ones(2)}, tmp_path / 'weights.pth')
    assert list(checkpoint_io.load_checkpoint(tmp_path / 'weights.pth')) == ['state_dict']
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list where a dict was expected'):
        checkpoint_io.load_checkpoint(tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_bytes(pickle.dumps('text')[:5])
    with pytest.raises(CheckpointError, match='cannot be read'):
        checkpoint_io.load_checkpoint(tmp_path / 'text.pth')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        checkpoint_io.load_checkpoint(tmp_path / 'none.pth')
