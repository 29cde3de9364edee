"""Signals of a scheduler that come before training, twice, or too often."""

import os
import signal
import time

import pytest
from helpers.killed_runs import counted, toy_arguments
from helpers.ranks import Ranks, run_train

PREEMPTED = 75


def train_signalled_while_building(arguments, number):
    from thinktwice.core.runner import DrivingRunner

    def build(cfg):
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)
        except BaseException as error:
            raise ValueError('swallowed') from error  # as libraries do

    DrivingRunner.from_cfg = build
    return run_train(arguments)


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
def test_signal_before_training_ends_the_run_as_preempted(tmp_path, number):
    arguments = toy_arguments(tmp_path / 'run')
    ranks = Ranks(train_signalled_while_building, (arguments, number), [{}], tmp_path / 'ranks')
    assert ranks.wait(60) == [PREEMPTED], ranks.logs()
    name = signal.Signals(number).name
    expected = f'train: asked to stop by {name} before training: nothing to save yet'
    assert expected in ranks.log(0).splitlines()
    assert 'Traceback' not in ranks.log(0)


def train_signalled_twice(arguments, second, pause, patience):
    """In the fifth step USR1, and after a pause the second."""
    from thinktwice.core.hooks import preemption
    from thinktwice.core.loops import ResumableTrainLoop

    def act(*unused):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(pause)
        os.kill(os.getpid(), second)

    preemption.REPEAT_SECONDS = patience
    ResumableTrainLoop.run_iter = counted(act, 5, ResumableTrainLoop.run_iter)
    return run_train(arguments)


@pytest.mark.parametrize('second', [signal.SIGUSR1, signal.SIGTERM])
def test_request_that_comes_twice_is_one(tmp_path, second):
    arguments = (toy_arguments(tmp_path / 'run'), second, 0.0, 10.0)
    ranks = Ranks(train_signalled_twice, arguments, [{}], tmp_path / 'ranks')
    assert ranks.wait(60) == [PREEMPTED], ranks.logs()
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == 'iter_5.pth'


def test_any_signal_long_after_the_first_ends_at_once(tmp_path):
    arguments = (toy_arguments(tmp_path / 'run'), signal.SIGTERM, 2.0, 0.1)
    ranks = Ranks(train_signalled_twice, arguments, [{}], tmp_path / 'ranks')
    assert ranks.wait(60) == [-signal.SIGTERM], ranks.logs()
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == 'iter_4.pth'


def train_signalled_at_the_end(arguments):
    from mmengine.runner import Runner

    from thinktwice.core.runner import DrivingRunner

    def train(runner):
        Runner.train(runner)
        os.kill(os.getpid(), signal.SIGTERM)

    DrivingRunner.train = train
    return run_train(arguments)


def test_signal_after_the_last_step_changes_nothing(tmp_path):
    arguments = toy_arguments(tmp_path / 'run', 'train_cfg.max_epochs=1')
    ranks = Ranks(train_signalled_at_the_end, (arguments,), [{}], tmp_path / 'ranks')
    assert ranks.wait(60) == [0], ranks.logs()
