"""The line of an evaluation."""

from mmengine.runner import LogProcessor

from thinktwice.core.hooks.logs import HeadlineLogProcessor


def test_the_line_has_the_headlines_and_the_files_all_metrics(monkeypatch):
    values = {'val/open_loop/ade': 0.5, 'val/open_loop/town/town02/ade': 0.4, 'val/time': 1.0}
    line = 'Epoch(val) [3][41/41]    ' + '  '.join(f'{name}: {value}' for name, value in values.items())
    monkeypatch.setattr(LogProcessor, 'get_log_after_epoch', lambda *unused: (values, line))
    found, shown = HeadlineLogProcessor().get_log_after_epoch(None, 41, 'val')
    assert found == values
    assert shown == 'Epoch(val) [3][41/41]    val/open_loop/ade: 0.5  val/time: 1.0'
