"""Schedules of a resumed run, against a run that had its length from the start."""

import pytest
import torch
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from thinktwice.core.loops import TrainPosition
from thinktwice.core.schedules import continue_schedules

EPOCHS = 4


def build(batches, lr=0.1, epochs=EPOCHS):
    """Warm-up over 3 iterations, cosine over all epochs, a step down at epoch 3."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=lr, weight_decay=0.5)
    schedules = [
        LinearLR(optimizer, start_factor=0.25, by_epoch=False, begin=0, end=3),
        CosineAnnealingLR.build_iter_from_epoch(
            optimizer, T_max=epochs, end=epochs, eta_min_ratio=0.01, epoch_length=batches
        ),
        MultiStepLR(optimizer, milestones=[3], gamma=0.5, by_epoch=True),
    ]
    return optimizer, schedules


def train(optimizer, schedules, batches, start=0, stop=None):
    """Learning rates of the steps from ``start`` on."""
    rates = []
    for step in range(start, EPOCHS * batches if stop is None else stop):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.param_groups[0]['params'][0].grad = torch.ones(2)
        optimizer.step()
        for schedule in schedules:
            if not schedule.by_epoch or (step + 1) % batches == 0:
                schedule.step()
    return rates


def checkpoint(batches, stop, **options):
    optimizer, schedules = build(batches, **options)
    train(optimizer, schedules, batches, stop=stop)
    states = [{k: v for k, v in s.state_dict().items() if not callable(v)} for s in schedules]
    return optimizer.state_dict(), states


def resume(saved, optimizer, schedules, position, batches):
    state, states = saved
    load = lambda: optimizer.load_state_dict(state)  # noqa: E731
    return continue_schedules(schedules, optimizer, states, load, position, batches)


def test_same_schedules_go_on_bit_for_bit():
    optimizer, schedules = build(6)
    assert resume(checkpoint(6, 8), optimizer, schedules, TrainPosition(1, 8, 2), 6)
    assert train(optimizer, schedules, 6, start=8) == train(*build(6), 6)[8:]
    assert optimizer.state_dict()['state'][0]['step'] == 24


@pytest.mark.parametrize(('before', 'now'), [(6, 3), (3, 6)])
def test_other_number_of_batches_follows_the_curve_of_a_run_with_that_number(before, now):
    optimizer, schedules = build(now)
    position = TrainPosition(epoch=2, iteration=2 * before)
    assert not resume(checkpoint(before, 2 * before), optimizer, schedules, position, now)
    assert train(optimizer, schedules, now, start=2 * now) == train(*build(now), now)[2 * now :]


def test_more_epochs_and_another_rate_hold_from_the_point_of_resuming():
    optimizer, schedules = build(6, lr=0.3)
    saved = checkpoint(6, 12, lr=0.1, epochs=2)
    assert not resume(saved, optimizer, schedules, TrainPosition(2, 12), 6)
    assert train(optimizer, schedules, 6, start=12) == train(*build(6, lr=0.3), 6)[12:]


def test_other_settings_of_the_optimizer_are_those_of_the_config():
    optimizer, schedules = build(6)
    optimizer.param_groups[0]['weight_decay'] = 0.125
    assert resume(checkpoint(6, 8), optimizer, schedules, TrainPosition(1, 8, 2), 6)
    assert optimizer.param_groups[0]['weight_decay'] == 0.125
    assert optimizer.param_groups[0]['lr'] == train(*build(6), 6)[8]
