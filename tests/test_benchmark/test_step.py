"""Operators of a step are counted, timed and attributed to the modules that they belong to."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.killed_runs import TOY_CONFIG
from helpers.ranks import HELPERS
from torch import nn

from thinktwice.benchmark.step import Clock, StepFigures, StepRecorder, by_part, compare_steps, format_step


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.encoder(x).mean((2, 3))).square().sum()


def recorded() -> StepRecorder:
    net = Net()
    recorder = StepRecorder(net, Clock())
    with recorder:
        net(torch.randn(2, 3, 5, 6)).backward()
    recorder.remove()
    net(torch.randn(2, 3, 5, 6))  # is not recorded
    return recorder


def test_arithmetic_of_both_directions_belongs_to_the_module_of_the_forward_pass() -> None:
    recorder = recorded()
    convolution = 2 * 2 * 4 * 3 * 9 * 5 * 6  # multiply-adds count twice
    product = 2 * 2 * 4 * 2
    # the image needs no gradient, so that the convolution has one product in the backward pass, not two
    assert recorder.flops['encoder.0'] == 2 * convolution
    assert recorder.flops['head'] == 3 * product
    assert not recorder.flops['encoder.1'] and recorder.seconds['encoder.1'] > 0
    assert recorder.operations > 10


def test_the_floor_calls_each_product_again_alone() -> None:
    recorder = recorded()
    assert sum(recorder.products.values()) == 5  # two forward, the others backward
    assert 0 < recorder.floor() < 1


def figures(time: float) -> StepFigures:
    modules = {'decoder.layers.0': (time, 2e9), 'decoder.layers.1': (time, 0.0), 'losses': (time / 2, 0.0)}
    phases = {'forward': time, 'backward': time, 'optimizer': time / 2}
    return StepFigures('CPU', 8, phases, time, 2e9, 100, 2**30, 2**29, modules)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_the_table_sums_over_parts_and_compares_two_steps() -> None:
    assert by_part(figures(1.0).modules) == {'decoder.layers': (2.0, 2e9), 'losses': (0.5, 0.0)}
    text = format_step(figures(1.0))
    assert '2.50 times' in text and cells(text.splitlines()[-1])[:3] == ['losses', '500.0', '20.0%']
    rows = [cells(line) for line in compare_steps([figures(1.0), figures(0.5)]).splitlines()[2:]]
    assert rows[0] == ['step', '2500.0', '1250.0', '0.50']
    assert [row[0] for row in rows[-3:]] == ['floor', 'decoder.layers', 'losses']


@pytest.mark.slow
def test_command_measures_a_step_and_compares_two(repository, tmp_path) -> None:
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, 'tools/benchmark.py', *map(str, arguments)],
            cwd=repository, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([HELPERS, os.environ.get('PYTHONPATH', '')])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = tmp_path / 'step.json'
    run('step', TOY_CONFIG, '--steps', 2, '--json', file)
    assert json.loads(file.read_text())['flops'] > 0
    assert cells(run('compare', file, file).splitlines()[2])[-1] == '1.00'
