"""When checkpoints are saved and which are kept, on a run made of counters."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from thinktwice.core.hooks import AtomicCheckpointHook
from thinktwice.core.loops import TrainPosition
from thinktwice.errors import ConfigError


class CountingRun:
    """Calls a hook as the training loop does: 5 batches per epoch; a file holds the iteration."""

    def __init__(
        self,
        folder: Path,
        hook: AtomicCheckpointHook,
        epochs: int = 3,
        accumulate: int = 1,
        iteration: int = 0,
    ) -> None:
        self.work_dir, self.hook, self.accumulate = str(folder), hook, accumulate
        self.max_epochs, self.max_iters = epochs, 5 * epochs
        self.logger = SimpleNamespace(info=lambda text: None)
        self.saved: list[str] = []
        self.iteration = iteration
        self.metrics = [SimpleNamespace(prefix='open_loop')]  # without a list of names

    @property
    def _train_loop(self):
        return self

    train_loop = _train_loop

    @property
    def _val_loop(self):
        return SimpleNamespace(evaluator=SimpleNamespace(metrics=self.metrics))

    val_loop = _val_loop

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
        path = Path(folder) / name
        path.unlink(missing_ok=True)  # as os.replace does, which write_atomically uses
        path.write_text(str(self.iteration))
        self.saved.append(name)

    def run(self, scores: tuple[float, ...] = ()) -> None:
        self.hook.before_train(self)
        for epoch in range(self.iteration // 5, self.max_epochs):
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


def test_keeps_the_last_three_epochs_by_default(tmp_path):
    CountingRun(tmp_path, AtomicCheckpointHook(), epochs=5).run()
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_3.pth', 'epoch_4.pth', 'epoch_5.pth'}


def refuse_links(*arguments):
    raise OSError('Operation not supported')


@pytest.mark.parametrize('links', [True, False])
@pytest.mark.parametrize(('rule', 'best'), [('less', [3.0, 1.0]), ('greater', [3.0])])
def test_keeps_the_best_by_a_metric(tmp_path, monkeypatch, rule, best, links):
    if not links:
        monkeypatch.setattr(os, 'link', refuse_links)
    hook = AtomicCheckpointHook(keep_best='ade', rule=rule)
    run = CountingRun(tmp_path, hook)
    run.run(scores=(3.0, 1.0, 2.0))
    epoch = len(best)  # of the best score
    assert (tmp_path / 'best_ade.pth').read_text() == str(5 * epoch)
    assert os.path.samefile(tmp_path / 'best_ade.pth', tmp_path / f'epoch_{epoch}.pth') == links
    assert run.saved.count('best_ade.pth') == (0 if links else len(best))
    assert hook.best_score == best[-1]
    assert json.loads((tmp_path / 'best_ade.json').read_text())['score'] == best[-1]
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('links', [True, False])
def test_pruning_the_epoch_leaves_the_best_checkpoint(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, 'link', refuse_links)
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best='ade', keep_last=1), epochs=4)
    run.run(scores=(3.0, 1.0, 2.0, 4.0))
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_4.pth', 'best_ade.pth'}
    assert (tmp_path / 'best_ade.pth').read_text() == '10'


def test_best_checkpoint_of_an_epoch_that_was_not_saved_is_written(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best='ade', interval=2))
    run.run(scores=(1.0, 2.0, 3.0))
    assert run.saved == ['best_ade.pth', 'epoch_2.pth', 'epoch_3.pth']
    assert (tmp_path / 'best_ade.pth').read_text() == '5'


def test_best_so_far_survives_a_resume(tmp_path):
    CountingRun(tmp_path, AtomicCheckpointHook(keep_best='ade'), epochs=1).run(scores=(0.5,))
    hook = AtomicCheckpointHook(keep_best='ade')
    CountingRun(tmp_path, hook, epochs=4, iteration=5).run(scores=(0.5, 0.6, float('nan'), 0.7))
    assert (tmp_path / 'best_ade.pth').read_text() == '5'
    assert hook.best_score == 0.5
    hook = AtomicCheckpointHook(keep_best='ade')
    CountingRun(tmp_path, hook, epochs=5, iteration=20).run(scores=(0.0,) * 4 + (0.4,))
    assert (tmp_path / 'best_ade.pth').read_text() == '25'


def test_new_run_starts_with_no_best_score(tmp_path):
    CountingRun(tmp_path, AtomicCheckpointHook(keep_best='ade'), epochs=1).run(scores=(0.5,))
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best='ade'), epochs=1)
    run.logger.warning = lambda text: None
    run.run(scores=(0.9,))
    assert json.loads((tmp_path / 'best_ade.json').read_text())['score'] == 0.9
    (previous,) = tmp_path.glob('previous_*')
    assert json.loads((previous / 'best_ade.json').read_text())['score'] == 0.5


def test_unknown_metric_is_named_after_the_evaluation(tmp_path):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best='fde'))
    with pytest.raises(ConfigError, match="keep_best is 'fde', but the evaluation gives ade"):
        run.run(scores=(1.0, 1.0, 1.0))


METRICS = [
    SimpleNamespace(prefix='open_loop', metric_names=('ade', 'fde')),
    SimpleNamespace(prefix='perception'),
]


@pytest.mark.parametrize('name', ['ADE', 'open_loop/ADE'])
@pytest.mark.parametrize('metrics', [METRICS[:1], METRICS])
def test_unknown_metric_is_named_before_training_where_metrics_list_their_names(tmp_path, metrics, name):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best=name))
    run.metrics = metrics
    with pytest.raises(ConfigError, match=f"keep_best is '{name}', but .* open_loop/ade, open_loop/fde"):
        run.run(scores=(1.0, 1.0, 1.0))
    assert run.saved == []


@pytest.mark.parametrize('name', ['perception/miou', 'open_lop/ade'])
def test_metric_of_none_of_the_metrics_is_refused_before_training(tmp_path, name):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best=name))
    run.metrics = METRICS[:1]
    with pytest.raises(ConfigError, match=f"keep_best is '{name}', but .* open_loop/ade, open_loop/fde"):
        run.run(scores=(1.0, 1.0, 1.0))
    assert run.saved == []


@pytest.mark.parametrize('name', ['open_loop/coarse/ade', 'perception/miou'])
def test_metric_that_may_be_given_is_not_refused_before_training(tmp_path, name):
    run = CountingRun(tmp_path, AtomicCheckpointHook(keep_best=name))
    run.metrics = METRICS
    with pytest.raises(ConfigError, match=f"keep_best is '{name}', but the evaluation gives ade"):
        run.run(scores=(1.0, 1.0, 1.0))
