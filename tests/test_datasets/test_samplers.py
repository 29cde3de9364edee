"""Index semantics of the samplers, against brute force and the worked examples of the rules."""

from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.evaluator import BaseMetric
from torch.utils.data import DataLoader

from thinktwice.datasets.samplers import EvalSampler, SampleKey, TrainSampler, base
from thinktwice.registry import DATA_SAMPLERS

sizes = st.integers(1, 40)
small = st.integers(1, 5)


def brute_force_shares(count: int, batch: int, ranks: int, seed: int) -> list[list[int]]:
    generator = torch.Generator()
    generator.manual_seed(seed)
    permutation = torch.randperm(count, generator=generator).tolist()
    total = int(np.ceil(count / (batch * ranks))) * batch * ranks
    padded = list(permutation)
    while len(padded) < total:
        padded.append(permutation[(len(padded) - count) % count])
    blocks = [padded[i * batch : (i + 1) * batch] for i in range(total // batch)]
    shuffled = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
    flat = list(chain(*shuffled))
    return [flat[k * total // ranks : (k + 1) * total // ranks] for k in range(ranks)]


def shares(count: int, batch: int, ranks: int, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    result = []
    for rank in range(ranks):
        sampler = TrainSampler(range(count), batch, seed=seed, rank=rank, num_ranks=ranks)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert all(key.epoch == epoch for key in keys)
        assert len(keys) == len(sampler)
        result.append([key.index for key in keys])
    return result


def test_worked_example_of_ten_samples_batch_two_two_processes() -> None:
    parts = shares(10, batch=2, ranks=2)
    assert [len(part) for part in parts] == [6, 6]
    counts = Counter(chain(*parts))
    assert set(counts) == set(range(10))
    assert sorted(counts.values()) == [1] * 8 + [2, 2]


@given(sizes, small, small, st.integers(0, 5), st.integers(0, 5))
def test_training_order_equals_brute_force(count: int, batch: int, ranks: int, seed: int, epoch: int) -> None:
    assert shares(count, batch, ranks, seed, epoch) == brute_force_shares(count, batch, ranks, seed + epoch)


def test_blocks_of_one_batch_stay_together() -> None:
    permutation = torch.randperm(12, generator=torch.Generator().manual_seed(3)).view(-1, 3).tolist()
    [order] = shares(12, batch=3, ranks=1, seed=3)
    batches = [order[i : i + 3] for i in range(0, 12, 3)]
    assert sorted(batches) == sorted(permutation)


def test_epochs_differ_and_repeat_exactly() -> None:
    first, second = shares(30, 2, 1, epoch=0), shares(30, 2, 1, epoch=1)
    assert first != second
    assert first == shares(30, 2, 1, epoch=0)


@given(sizes, small, small, st.data())
def test_starting_inside_an_epoch_yields_the_rest(
    count: int, batch: int, ranks: int, data: st.DataObject
) -> None:
    sampler = TrainSampler(range(count), batch, rank=0, num_ranks=ranks)
    sampler.set_epoch(4)
    whole = list(sampler)
    start = data.draw(st.integers(0, len(sampler)))
    sampler.set_start(start)
    sampler.set_epoch(4)  # the epoch hook repeats the epoch; the start must survive it
    assert list(sampler) == whole[start:]
    assert len(sampler) == len(whole)
    sampler.set_epoch(5)
    assert len(list(sampler)) == len(whole)


def test_state_goes_to_another_sampler() -> None:
    sampler = TrainSampler(range(20), 2, seed=7)
    sampler.set_epoch(3)
    sampler.set_start(6)
    other = TrainSampler(range(20), 2, seed=7)
    other.load_state_dict(sampler.state_dict())
    assert list(other) == list(sampler)


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        ({'batch_size': 4, 'seed': 7}, 'batch_size was 2, is 4'),
        ({'batch_size': 2, 'seed': 8}, 'seed was 7, is 8'),
        ({'batch_size': 2, 'seed': 7, 'num_ranks': 2, 'rank': 0}, 'num_ranks was 1, is 2'),
    ],
)
def test_state_of_another_order_is_refused(arguments: dict, named: str) -> None:
    state = TrainSampler(range(20), 2, seed=7).state_dict()
    with pytest.raises(ValueError, match=named):
        TrainSampler(range(20), **arguments).load_state_dict(state)


def test_start_outside_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match='outside the epoch of 10'):
        TrainSampler(range(10), 2).set_start(11)


@pytest.mark.parametrize('sampler_type', ['TrainSampler', 'EvalSampler'])
def test_samplers_are_registered_and_refuse_an_empty_dataset(sampler_type: str) -> None:
    extra = {'batch_size': 1} if sampler_type == 'TrainSampler' else {}
    config = {'type': sampler_type, **extra}
    built = DATA_SAMPLERS.build(dict(config), default_args={'dataset': range(3), 'seed': 1})
    assert {key.index for key in built} == {0, 1, 2}
    with pytest.raises(ValueError, match='empty'):
        DATA_SAMPLERS.build(dict(config), default_args={'dataset': [], 'seed': 1})


def test_evaluation_deals_samples_round() -> None:
    parts = [[key.index for key in EvalSampler(range(10), rank=k, num_ranks=4)] for k in range(4)]
    assert parts == [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]


@given(sizes, st.integers(1, 60))
def test_interleaved_and_cut_results_hold_every_sample_once(count: int, ranks: int) -> None:
    parts = [list(EvalSampler(range(count), rank=k, num_ranks=ranks)) for k in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    interleaved = list(chain(*zip_longest(*parts)))[:count]
    assert interleaved == [SampleKey(i, 0) for i in range(count)]


def test_loader_passes_the_key_through() -> None:
    class Echo:
        def __getitem__(self, key: SampleKey) -> tuple[int, int]:
            return key.epoch, key.index

        def __len__(self) -> int:
            return 5

    sampler = TrainSampler(Echo(), 2, seed=1)
    sampler.set_epoch(9)
    loader = DataLoader(Echo(), batch_size=2, sampler=sampler, collate_fn=list)
    seen = list(chain(*loader))
    assert [index for _, index in seen] == [key.index for key in sampler]
    assert {epoch for epoch, _ in seen} == {9}


def test_samplers_ask_the_process_group_for_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, 'get_dist_info', lambda: (1, 2))
    assert [key.index for key in EvalSampler(range(5))] == [1, 3, 0]
    assert [key.index for key in TrainSampler(range(10), 2)] == shares(10, 2, 2)[1]


def evaluate_on(rank: int, ranks: int, folder: str, count: int) -> None:
    """One process of an evaluation: its share of the samples through an mmengine metric."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=ranks
    )

    class Indices(BaseMetric):
        def process(self, data_batch: list[int], data_samples: list) -> None:
            self.results.extend(data_batch)

        def compute_metrics(self, results: list[int]) -> dict[str, list[int]]:
            return {'seen': results}

    metric = Indices(collect_device='cpu')
    for key in EvalSampler(range(count)):
        metric.process([key.index], [])
    found = metric.evaluate(count)
    if rank == 0:
        torch.save(found['seen'], f'{folder}/seen.pt')
    torch.distributed.destroy_process_group()


def test_metric_over_three_processes_sees_every_sample_once(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        evaluate_on, args=(3, str(tmp_path), 7), nprocs=3, start_method='fork'
    )
    assert torch.load(tmp_path / 'seen.pt') == list(range(7))
