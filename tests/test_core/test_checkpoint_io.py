"""Checkpoint files appear whole or not at all, damage is noticed, and nothing in them is run."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from thinktwice.core import checkpoint_io
from thinktwice.errors import CheckpointError


def save(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    checkpoint_io.save_checkpoint({'state_dict': {'w': torch.full((500,), value)}, 'meta': {'iter': 3}}, path)
    return path


def test_saved_checkpoint_reads_back(tmp_path):
    checkpoint = checkpoint_io.load_checkpoint(save(tmp_path, 'iter_3.pth', 7.0))
    assert checkpoint['meta'] == {'iter': 3}
    assert torch.equal(checkpoint['state_dict']['w'], torch.full((500,), 7.0))


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = save(tmp_path, 'iter_3.pth', 1.0)

    def stop_half_way(file):
        file.write(b'half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint_io.write_atomically(path, stop_half_way)
    assert checkpoint_io.load_checkpoint(path)['state_dict']['w'][0] == 1.0
    assert os.listdir(tmp_path) == ['iter_3.pth']


def test_full_disk_is_one_error_and_the_old_file_survives(tmp_path):
    path = save(tmp_path, 'iter_3.pth', 1.0)

    def fill_up(file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    with pytest.raises(CheckpointError, match=r'cannot write .*No space left on device.*Free some space'):
        checkpoint_io.write_atomically(path, fill_up)
    assert checkpoint_io.verify_checkpoint_file(path) is None
    assert os.listdir(tmp_path) == ['iter_3.pth']


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


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    (tmp_path / '.iter_3.pth.77.tmp').write_bytes(b'x')
    (tmp_path / '.last_checkpoint.77.tmp').write_bytes(b'x')
    kept = save(tmp_path, 'iter_3.pth')
    checkpoint_io.remove_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


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
