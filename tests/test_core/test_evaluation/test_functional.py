"""Errors against numbers worked out by hand and against loops."""

import math

import pytest
import torch

from thinktwice.core.evaluation import functional

TRUE = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]])


def test_errors_of_a_plan_that_is_beside_the_road():
    predicted = TRUE + torch.tensor([3.0, -4.0])
    assert functional.average_displacement_error(predicted, TRUE).tolist() == [5.0]
    assert functional.final_displacement_error(predicted, TRUE).tolist() == [5.0]
    assert functional.axis_offsets(predicted, TRUE).tolist() == [[3.0, 4.0]]


def test_displacement_equals_a_loop():
    predicted, true = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    for sample in range(5):
        distances = [
            math.dist(predicted[sample, step].tolist(), true[sample, step].tolist()) for step in range(3)
        ]
        ade = functional.average_displacement_error(predicted, true)[sample].item()
        fde = functional.final_displacement_error(predicted, true)[sample].item()
        assert ade == pytest.approx(sum(distances) / 3, abs=1e-6)
        assert fde == pytest.approx(distances[-1], abs=1e-6)


def test_constant_velocity_goes_straight_on():
    plan = functional.constant_velocity_plan(torch.tensor([0.0, 8.0]), num_steps=3, interval=0.5)
    assert plan[0].abs().max() == 0
    assert plan[1].tolist() == [[4.0, 0.0], [8.0, 0.0], [12.0, 0.0]]


def test_control_error_is_absolute_in_each_axis():
    error = functional.control_error(torch.tensor([[0.5, -0.25]]), torch.tensor([[-0.5, 0.0]]))
    assert error.tolist() == [[1.0, 0.25]]
