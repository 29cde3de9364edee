"""When checkpoints are saved and which are kept, on a run made of counters."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from thinktwice.core.hooks import AtomicCheckpointHook
from thinktwice.core.loops import TrainPosition


class CountingRun:
    """Calls a hook as the training loop does: 5 batches an epoch; files are empty."""

    def __init__(
        self, folder: Path, hook: AtomicCheckpointHook, epochs: int = 3, accumulate: int = 1
    ) -> None:
        self.work_dir, self.hook, self.accumulate = str(folder), hook, accumulate
        self.max_epochs, self.max_iters = epochs, 5 * epochs
        self.logger = SimpleNamespace(info=lambda text: None)
        self.saved: list[str] = []
        self.iteration = 0

    @property
    def _train_loop(self):
        return self

    train_loop = _train_loop

    @property
    def position(self) -> TrainPosition:
        return TrainPosition(self.iteration // 5, self.iteration, self.iteration % 5)

    @property
    def is_last_batch_of_epoch(self) -> bool:
        return self.iteration % 5 == 0

    @property
    def optim_wrapper(self):
        return SimpleNamespace(is_accumulating=self.iteration % self.accumulate != 0)

    def save_checkpoint(self, folder: str, name: str) -> None:
        (Path(folder) / name).touch()
        self.saved.append(name)

    def run(self, scores: tuple[float, ...] = ()) -> None:
        self.hook.before_train(self)
        for epoch in range(self.max_epochs):
            for batch in range(5):
                self.iteration += 1
                self.hook.after_train_iter(self, batch)
            self.hook.after_train_epoch(self)
            if scores:
                self.hook.after_val_epoch(self, {'ade': scores[epoch]})


def test_every_epoch_by_default(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook())
    run.run()
    assert run.saved == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'epoch_3.pth'


def test_by_iterations_and_the_last_epoch_always(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(interval=0, interval_iters=4, keep_last_iters=-1))
    run.run()
    assert run.saved == ['iter_4.pth', 'iter_8.pth', 'iter_12.pth', 'epoch_3.pth']


def test_by_iterations_at_the_end_of_an_epoch_is_one_file(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(interval=0, interval_iters=5))
    run.run()
    assert run.saved == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_by_minutes(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    hook = AtomicCheckpointHook(interval=0, interval_minutes=10)
    run = CountingRun(tmp_path, hook)
    hook.before_train(run)
    for minutes, expected in (
        (9.9, []),
        (10.1, ['iter_2.pth']),
        (15, ['iter_2.pth']),
        (20.5, ['iter_2.pth', 'iter_4.pth']),
    ):
        clock[0] = 60 * minutes
        run.iteration += 1
        hook.after_train_iter(run, run.iteration - 1)
        assert run.saved == expected


def test_waits_for_the_update_while_gradients_accumulate(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(interval=0, interval_iters=7), accumulate=4)
    run.run()
    assert run.saved == ['iter_8.pth', 'epoch_3.pth']


def test_keeps_the_last_ones_and_never_removes_the_newest(tmp_path):
    hook = AtomicCheckpointHook(keep_last=1, interval_iters=1, keep_last_iters=2)
    CountingRun(tmp_path, hook).run()
    kept = {path.name for path in tmp_path.glob('*.pth')}
    assert kept == {'epoch_3.pth', 'iter_13.pth', 'iter_14.pth'}


@pytest.mark.parametrize(('rule', 'best'), [('less', [3.0, 1.0]), ('greater', [3.0])])
def test_keeps_the_best_by_a_metric(tmp_path, rule, best):
    hook = AtomicCheckpointHook(keep_best='ade', rule=rule)
    run = CountingRun(tmp_path, hook)
    run.run(scores=(3.0, 1.0, 2.0))
    assert run.saved.count('best_ade.pth') == len(best)
    assert hook.state_dict() == {'best_score': best[-1]}


def test_best_so_far_survives_a_resume(tmp_path):
    hook = AtomicCheckpointHook(keep_best='ade')
    hook.load_state_dict({'best_score': 0.5})
    run = CountingRun(tmp_path, hook)
    run.run(scores=(0.6, float('nan'), 0.7))
    assert 'best_ade.pth' not in run.saved


def test_unknown_metric_is_named(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best='fde'))
    with pytest.raises(ValueError, match="keep_best is 'fde', but the evaluation gives ade"):
        run.run(scores=(1.0, 1.0, 1.0))
