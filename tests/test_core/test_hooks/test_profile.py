import json
import re
from types import SimpleNamespace

import torch

from thinktwice.core.hooks import ProfileHook


def test_only_the_steps_after_the_warm_up_are_in_trace_and_table(tmp_path) -> None:
    messages: list[str] = []
    runner = SimpleNamespace(work_dir=tmp_path, logger=SimpleNamespace(info=messages.append))
    hook = ProfileHook(steps=2, warmup=1)
    for step in range(5):
        hook.before_train_iter(runner, step)
        product = torch.randn(64, 64) @ torch.randn(64, 64)
        product.sum().item()
        hook.after_train_iter(runner, step)
    (path,) = (tmp_path / 'profile').iterdir()
    events = json.loads(path.read_text())['traceEvents']
    assert sum(event.get('name') == 'aten::mm' for event in events) == 2
    (message,) = messages
    assert str(path) in message
    assert re.search(r'\| aten::mm +\| 1 ', message)
    assert re.search(r'aten::_local_scalar_dense 1$', message)
