"""Kills at random moments, of one process or all, lose nothing and change nothing."""

import os
import random
import time

import pytest
from helpers.killed_runs import final_state, toy_arguments, train_until
from helpers.ranks import start_ranks
from helpers.tiny_dataset import equal

from thinktwice.checkpoint.file import load_checkpoint
from thinktwice.checkpoint.run_folder import find_latest_checkpoint

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get('THINKTWICE_SOAK_KILLS', '50'))
OPTIONS = (
    'train_dataloader.dataset.num_samples=240',
    'default_hooks.checkpoint.interval_iters=1',
    'default_hooks.checkpoint.keep_last_iters=2',
    'ema_momentum=0.1',
    'env_cfg.dist_cfg.start_minutes=0.5',  # who waits for a process killed before it came gives up
)
NOTHING = ('die', 'never', 0, None)
PAUSE = 0.02  # seconds added to each step


def test_fifty_random_kills_lose_no_state(tmp_path):
    """Two processes; each round of kills ends with the weights of a run that nothing happened to."""
    choice = random.Random(0)
    for name in ('warm_up', 'reference'):  # the first one also starts the server that forks processes
        arguments = toy_arguments(tmp_path / name, *OPTIONS, launcher='pytorch')
        start = time.monotonic()
        start_ranks(train_until, (arguments, *NOTHING, PAUSE), 2, tmp_path / 'ranks').results()
    # kills come by this measure, or on a slow machine each would come before the first step
    seconds = time.monotonic() - start
    reference = final_state(tmp_path / 'reference')
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        folder, reached = tmp_path / f'run{runs}', -1
        while True:
            arguments = toy_arguments(folder, *OPTIONS, launcher='pytorch')
            ranks = start_ranks(train_until, (arguments, *NOTHING, PAUSE), 2, tmp_path / 'ranks')
            time.sleep(choice.uniform(0.1, 0.7) * seconds)
            victims = choice.choice([ranks.processes, ranks.processes[:1], ranks.processes[1:]])
            if kills >= KILLS:
                victims = []
            alive = [process for process in victims if process.is_alive()]
            for process in alive:
                process.kill()  # unless it ends in this moment
            codes = ranks.wait(90)  # remaining ranks end by themselves
            if codes == [0, 0]:
                break
            assert alive, ranks.logs()  # it ended by itself, and not well
            kills += 1
            latest = find_latest_checkpoint(folder) if folder.exists() else None
            now = load_checkpoint(latest)['meta']['iter'] if latest else 0
            assert now >= reached, f'went back from iteration {reached} to {now}'
            reached = now
        assert equal(final_state(folder), reference), f'run {runs} after {kills} kills'
    print(f'{kills} kills in {runs} runs')
