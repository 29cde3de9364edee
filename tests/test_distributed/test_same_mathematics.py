"""Several processes compute what one process with their samples computes."""

import pytest
import torch
from helpers.ranks import start_ranks
from helpers.small_runs import NUM_SAMPLES, train_small


def difference(first: dict, second: dict) -> float:
    """Largest difference, relative to the largest value of each tensor (at least 1)."""
    assert first.keys() == second.keys()
    return max(
        float((first[name] - second[name]).abs().max() / second[name].abs().max().clamp(min=1))
        for name in first
    )


def mean_losses(runs: list[dict], step: int) -> dict[str, torch.Tensor]:
    losses = [run['losses'][step] for run in runs]
    return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}


@pytest.mark.parametrize('steps', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, steps):
    epochs = steps * 4 // NUM_SAMPLES
    single = start_ranks(train_small, (tmp_path / 'single', 4, epochs), 1, tmp_path / 'a')
    several = start_ranks(train_small, (tmp_path / 'several', 2, epochs), 2, tmp_path / 'b')
    alone, pair = single.results()[0], several.results()
    assert len(alone['losses']) == steps
    assert difference(mean_losses(pair, 0), alone['losses'][0]) < 1e-5
    for name, gradient in alone['gradients'].items():
        torch.testing.assert_close(pair[0]['gradients'][name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    assert difference(pair[0]['weights'], alone['weights']) < 1e-4
    assert difference(pair[0]['weights'], pair[1]['weights']) == 0


@pytest.mark.parametrize('batch_size', [1, 2])
def test_every_parameter_gets_a_gradient_on_two_processes(tmp_path, batch_size):
    runs = start_ranks(
        train_small, (tmp_path / 'run', batch_size, 1, {}, False), 2, tmp_path / 'ranks'
    ).results()
    for run in runs:  # training itself fails if DDP misses one: find_unused_parameters is off
        assert run['reached'] == run['weights'].keys()
