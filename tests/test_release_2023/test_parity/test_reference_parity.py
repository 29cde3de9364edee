"""The reference config against stored outputs, losses and gradients of the official code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from thinktwice.apis import init_model
from thinktwice.release_2023.checkpoint.conversion import model_shapes, ours_to_official
from thinktwice.release_2023.checkpoint.names import DERIVED_ENTRIES, OFFICIAL_NAMES, official_entries
from thinktwice.release_2023.parity import (
    TOLERANCE,
    compare,
    deterministic_batch,
    deterministic_weights,
    fill_model,
    relative_gradient_errors,
    run_batch,
)

REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = REPOSITORY / 'tests' / 'data' / 'parity_seed0_128x256.npz'


@pytest.fixture(scope='module')
def stored():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope='module')
def weights():
    return deterministic_weights(official_entries())


@pytest.fixture(scope='module')
def model(weights):
    config = REPOSITORY / 'configs' / 'thinktwice_reference.py'
    return fill_model(init_model(config, device='cpu'), lambda shapes: weights)


@pytest.fixture(scope='module')
def computed(model):
    torch.set_num_threads(1)  # sums over several threads change their last bits from run to run
    return run_batch(model, deterministic_batch(0))


@pytest.mark.parametrize('group', ['infer/', 'infer_fp/', 'loss/', 'grad/'])
def test_every_entry_lies_within_the_tolerance(stored, computed, group):
    deviations = [deviation for deviation in compare(stored, computed) if deviation.entry.startswith(group)]
    assert deviations
    assert [deviation for deviation in deviations if not deviation.error <= TOLERANCE] == []


def test_nothing_is_left_uncompared(stored, computed):
    assert set(stored) == set(computed)
    assert len(stored['grad/names']) == 878


def test_outputs_and_losses_are_far_closer_than_the_tolerance(stored, computed):
    errors = {d.entry: d.error for d in compare(stored, computed) if not d.entry.startswith('grad/')}
    assert max(errors.values()) < 1e-4


def test_each_gradient_norm_is_right_by_itself(stored, computed):
    # one ReLU at its kink, switched by rounding, moves a small norm by a few thousandths
    worst = relative_gradient_errors(stored, computed)[0]
    assert worst.error < 2e-2, worst
    errors = np.array([deviation.error for deviation in relative_gradient_errors(stored, computed)])
    assert np.median(errors) < 1e-3


def test_dead_parameters_are_frozen_and_no_other(model, stored):
    frozen = {OFFICIAL_NAMES.to_official(name) for name, p in model.named_parameters() if not p.requires_grad}
    trained = set(stored['grad/names'].tolist())
    parameters = {OFFICIAL_NAMES.to_official(name) for name, _ in model.named_parameters()}
    assert len(frozen) == 90
    assert frozen == parameters - trained


def test_official_weights_survive_the_way_here_and_back(model, weights):
    back = ours_to_official(model.state_dict(), model_shapes(model))
    assert back.is_complete
    assert set(back.weights) == set(weights) == set(official_entries()) - set(DERIVED_ENTRIES)
    assert all(torch.equal(back.weights[name], weights[name]) for name in weights)
