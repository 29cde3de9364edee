"""Steps that are not finite are undone, named and, in a row, the end of the run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from thinktwice.core.hooks import NonFiniteGuardHook, SkippedSamplesHook
from thinktwice.core.hooks.step import step_seed
from thinktwice.core.optim_wrapper import GuardedOptimWrapper
from thinktwice.errors import DamagedDataError, TrainingDivergedError


class Run:
    """One model with BatchNorm, trained by hand with the hook around each step."""

    def __init__(self, folder, max_in_a_row: int = 3) -> None:
        self.work_dir = str(folder)
        self.bare_model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.optim_wrapper = GuardedOptimWrapper(torch.optim.SGD(self.bare_model.parameters(), lr=0.1))
        self.hook = NonFiniteGuardHook(max_in_a_row)
        self.iter = 0
        self.warnings: list[str] = []
        self.logger = SimpleNamespace(warning=self.warnings.append)
        self.hook.before_train(self)

    def step(self, batch: torch.Tensor) -> None:
        data = {'metas': [{'sample_id': f'sample_{i}'} for i in range(len(batch))]}
        self.hook.before_train_iter(self, self.iter, data)
        loss = self.bare_model(batch).square().mean()
        self.optim_wrapper.update_params(loss)
        self.hook.after_train_iter(self, self.iter, data, {'wp_loss': loss})
        self.iter += 1


def bad_batch() -> torch.Tensor:
    batch = torch.randn(4, 2)
    batch[1, 0] = float('nan')
    return batch


def test_bad_step_leaves_weights_and_running_statistics_alone(tmp_path):
    run = Run(tmp_path)
    run.step(torch.randn(4, 2))
    before = {name: value.clone() for name, value in run.bare_model.state_dict().items()}
    run.step(bad_batch())
    after = run.bare_model.state_dict()
    for name, value in before.items():
        if name != '1.num_batches_tracked':
            assert torch.equal(after[name], value), name
    run.step(torch.randn(4, 2))
    assert torch.isfinite(run.bare_model[1].running_mean).all()


def test_report_names_step_samples_and_losses(tmp_path):
    run = Run(tmp_path)
    run.step(torch.randn(4, 2))
    run.step(bad_batch())
    assert 'step 2 was skipped' in run.warnings[0]
    report = json.loads((tmp_path / 'nonfinite' / 'iter_2_rank_0.json').read_text())
    assert report['samples'] == ['sample_0', 'sample_1', 'sample_2', 'sample_3']
    assert report['values'] == {'wp_loss': 'nan'}


def test_run_stops_only_when_bad_steps_do_not_end(tmp_path):
    run = Run(tmp_path, max_in_a_row=3)
    for _ in range(2):
        run.step(bad_batch())
        run.step(bad_batch())
        run.step(torch.randn(4, 2))
    run.step(bad_batch())
    run.step(bad_batch())
    with pytest.raises(
        TrainingDivergedError, match='3 steps in a row were not finite, the last at iteration 9'
    ):
        run.step(bad_batch())


def test_seed_of_a_step_depends_on_each_of_seed_step_and_rank():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 3 * 20 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


def metas(*skipped: str) -> list[dict]:
    """Of one sample, in whose place others were tried that can't be read."""
    skips = [{'sample_id': name, 'path': f'{name}.png', 'reason': 'cut short'} for name in skipped]
    return [{'command_replaced': False, 'skipped': skips}]


def test_too_many_unreadable_samples_end_even_a_short_epoch(tmp_path):
    hook, warnings = SkippedSamplesHook(max_share=0.3, min_skips=1), []
    run = SimpleNamespace(log_dir=str(tmp_path), logger=SimpleNamespace(warning=warnings.append))
    for skipped in ((), ('a',), ()):
        hook.after_train_iter(run, 0, {'metas': metas(*skipped)})
    hook.after_train_epoch(run)  # one of four reads failed
    assert '1 samples could not be read (1 of 4 reads' in warnings[0]
    for skipped in (('a',), ('a', 'b')):
        hook.after_train_iter(run, 0, {'metas': metas(*skipped)})
    with pytest.raises(
        DamagedDataError, match=r'3 of 5 samples of this epoch could not be used .*a.png: cut short'
    ):
        hook.after_train_epoch(run)
    assert '2 samples could not be read (3 of 5 reads' in warnings[1]


def stops(hook: SkippedSamplesHook, damaged: float, generator: np.random.Generator) -> bool:
    """Whether the hook stops a run of 60 epochs of 1,500 samples."""
    for _ in range(60):
        for _ in range(15):
            hook.tally.num_skips += generator.binomial(100, damaged)
            hook.tally.num_samples += 100
            try:
                hook.after_train_iter(None, hook.interval - 1)
            except DamagedDataError:
                return True
        hook.tally.reset()
    return False


def test_few_damaged_samples_do_not_stop_long_runs_by_chance():
    """0.1% of the samples are damaged, a tenth of what is tolerated; each 100 samples are judged."""
    generator = np.random.default_rng(0)
    assert not any(stops(SkippedSamplesHook(), 0.001, generator) for _ in range(30))
    assert all(stops(SkippedSamplesHook(), 0.015, generator) for _ in range(30))
    # without a minimum number, a share of the first few hundred samples decides
    assert sum(stops(SkippedSamplesHook(min_skips=1), 0.001, generator) for _ in range(30)) > 5


def test_samples_of_a_dataset_that_replaces_none_need_not_say_so(tmp_path):
    hook, warnings = SkippedSamplesHook(interval=1), []
    run = SimpleNamespace(log_dir=str(tmp_path), logger=SimpleNamespace(warning=warnings.append))
    hook.after_train_iter(run, 0, {'metas': [{'sample_id': 'own'}, {}]})
    hook.after_train_iter(run, 1, {'inputs': {}})
    hook.before_val_epoch(run)
    hook.after_val_iter(run, 0, {'metas': [{}]})
    hook.after_val_epoch(run, {})
    assert hook.tally.num_samples == 2
    assert not warnings


def test_evaluation_says_what_it_left_out(tmp_path):
    hook, warnings = SkippedSamplesHook(), []
    run = SimpleNamespace(log_dir=str(tmp_path), logger=SimpleNamespace(warning=warnings.append))
    for _ in range(2):
        hook.before_val_epoch(run)
        hook.after_val_iter(run, 0, {'metas': metas('a')})
        hook.after_val_iter(run, 1, {'metas': metas()})
        hook.after_val_epoch(run, {})
    assert len(warnings) == 2
    assert 'the metrics go without' in warnings[1]
    listed = (tmp_path / 'skipped_evaluation_samples_rank_0.jsonl').read_text().splitlines()
    assert [json.loads(line)['sample_id'] for line in listed] == ['a']
