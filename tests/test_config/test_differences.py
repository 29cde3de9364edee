"""Changes between the config of a checkpoint and of the run that resumes it are listed."""

from thinktwice.config.differences import config_changes


def test_changed_lines_are_listed_and_irrelevant_ones_left_out():
    saved = "lr = 1\nbatch = 2\nwork_dir = 'a'\nresume = False\n"
    present = "lr = 3\nbatch = 2\nwork_dir = 'b'\nresume = True\n"
    assert config_changes(saved, present) == ['-lr = 1', '+lr = 3']
    assert config_changes(saved, saved) == []


def test_many_changes_are_cut_short():
    changes = config_changes('', '\n'.join(f'key_{i} = {i}' for i in range(30)), limit=5)
    assert len(changes) == 6
    assert changes[-1] == '... and 25 more lines'
