"""Inputs exchanged among samples: who gets whose, what stays, and metrics against predictions by hand."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.ranks import HELPERS, start_ranks
from helpers.tiny_dataset import equal, pipeline, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.apis import test as evaluate
from thinktwice.core.evaluation.reliance import (
    ExchangedInputs,
    exchangeable_inputs,
    partners,
    reliance_table,
)
from thinktwice.datasets import CarlaDataset, SampleKey
from thinktwice.errors import ConfigError
from thinktwice.registry import DATASETS

ROUTES = {'town01_00/routes_a': 8, 'town02_00/routes_b': 7}  # 3 and 2 samples
IMAGES = {'img', 'intrinsics', 'cam2ego', 'ida_mats'}
TOY_CONFIG = str(Path(HELPERS) / 'toy_config.py')
SAMPLES = 10


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CarlaDataset:
    return CarlaDataset(write_dataset(tmp_path_factory.mktemp('data'), ROUTES), pipeline())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 2**32))
def test_partners_are_other_samples_of_other_routes_as_far_as_possible(lengths: list[int], seed: int) -> None:
    routes = [f'route_{number}' for number, length in enumerate(lengths) for _ in range(length)]
    if len(routes) < 2:
        with pytest.raises(ConfigError, match='at least two samples'):
            partners(routes, seed)
        return
    found = partners(routes, seed).tolist()
    assert sorted(found) == list(range(len(routes)))
    assert all(partner != index for index, partner in enumerate(found))
    # of the longest route, 2 M - S samples find no place elsewhere
    from_own_route = sum(routes[index] == routes[partner] for index, partner in enumerate(found))
    assert from_own_route == max(2 * max(lengths) - len(routes), 0)
    assert found == partners(routes, seed).tolist()


def test_seeds_give_different_partners() -> None:
    routes = [f'route_{index // 5}' for index in range(50)]
    drawn = {tuple(partners(routes, seed)) for seed in range(20)}
    assert len(drawn) == 20
    of_first = {routes[found[0]] for found in drawn}
    assert len(of_first) > 4  # and not those of one neighboring route


@pytest.mark.parametrize(
    ('name', 'keys'),
    [
        ('images', IMAGES),
        ('lidar', {'points'}),
        ('images_and_lidar', IMAGES | {'points'}),
        ('speed', {'speed'}),
        ('target_point_and_command', {'target_point', 'command'}),
        ('history', IMAGES | {'frame2key'}),
    ],
)
def test_the_named_input_and_nothing_else_is_of_the_partner(
    dataset: CarlaDataset, name: str, keys: set[str]
) -> None:
    exchanged = ExchangedInputs(dataset, name, seed=0)
    assert len(exchanged) == len(dataset) and exchanged.metainfo == dataset.metainfo
    route = [dataset.sample_id(index)[:-5] for index in range(len(dataset))]
    of_partner = partners(route, seed=0)
    for index in range(len(dataset)):
        own, other = dataset[index], dataset[int(of_partner[index])]
        sample = exchanged[SampleKey(index, 0)]
        assert equal(sample['targets'], own['targets']) and equal(sample['metas'], own['metas'])
        assert sample['inputs'].keys() == own['inputs'].keys()
        for key, value in sample['inputs'].items():
            expected = other['inputs'][key] if key in keys else own['inputs'][key]
            if name == 'history' and key in keys:
                assert torch.equal(value[:-1], expected[:-1])
                assert torch.equal(value[-1], own['inputs'][key][-1])
            else:
                assert torch.equal(value, expected), key


def test_inputs_follow_from_the_keys_of_a_sample(dataset: CarlaDataset) -> None:
    inputs = dataset[0]['inputs']
    names = exchangeable_inputs(inputs)
    assert names == ['images', 'lidar', 'images_and_lidar', 'speed', 'target_point_and_command', 'history']
    one_frame = {**inputs, 'img': inputs['img'][-1:]}
    assert 'history' not in exchangeable_inputs(one_frame)
    assert exchangeable_inputs({'radar': 1, 'speed': 2}) == ['speed', 'radar']


def test_wrapped_datasets_name_their_samples(dataset: CarlaDataset) -> None:
    repeated = DATASETS.build(dict(type='RepeatDataset', dataset=dataset, times=2))
    whole = DATASETS.build(dict(type='ConcatDataset', datasets=[dataset, repeated]))
    for index in range(len(whole)):
        assert whole.sample_id(index) == whole[index]['metas']['sample_id']


@pytest.fixture
def toy_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, str]:
    """Config and checkpoint of a toy model with random weights."""
    monkeypatch.syspath_prepend(HELPERS)  # the config imports its parts from there
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': import_module('toy_parts').ToyPlanner().state_dict()}, path)
    return TOY_CONFIG, str(path)


def toy_reliance(config: str, checkpoint: str, folder: str, launcher: str) -> dict[str, float]:
    return evaluate(config, checkpoint, work_dir=folder, launcher=launcher, reliance=True)


def test_metrics_equal_predictions_from_exchanged_inputs_by_hand(
    tmp_path: Path, toy_arguments: tuple[str, str]
) -> None:
    config, checkpoint = toy_arguments
    toy_parts = import_module('toy_parts')
    out = tmp_path / 'metrics.json'
    metrics = evaluate(config, checkpoint, work_dir=tmp_path / 'work', out=out, reliance=True)
    model = toy_parts.ToyPlanner()
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    samples = [toy_parts.ToyPlans(SAMPLES)[index] for index in range(SAMPLES)]
    of_partner = partners([str(index) for index in range(SAMPLES)], seed=0)

    def ade(order: Any) -> float:
        speeds = torch.stack([samples[int(index)]['inputs']['speed'] for index in order])
        with torch.no_grad():
            plans = model.eval()(dict(speed=speeds))
        truth = torch.stack([sample['targets']['waypoints'] for sample in samples])
        return float((plans - truth).norm(dim=-1).mean())

    assert metrics['open_loop/ade'] == pytest.approx(ade(np.arange(SAMPLES)), rel=1e-5)
    assert metrics['reliance/speed/open_loop/ade'] == pytest.approx(ade(of_partner), rel=1e-5)
    assert metrics['reliance/speed/open_loop/samples'] == SAMPLES
    assert json.loads(out.read_text()) == metrics
    logged = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert reliance_table(metrics) in logged


def test_metrics_do_not_depend_on_the_number_of_ranks(tmp_path: Path, toy_arguments: tuple[str, str]) -> None:
    expected = evaluate(*toy_arguments, work_dir=tmp_path / 'alone', reliance=True)
    ranks = start_ranks(toy_reliance, (*toy_arguments, str(tmp_path / 'ranks'), 'pytorch'), 3, tmp_path)
    for metrics in ranks.results():
        assert metrics == pytest.approx(expected, rel=1e-6)
        assert metrics.keys() == expected.keys()


def test_table_shows_each_input_with_the_change() -> None:
    metrics = {
        **{'open_loop/ade': 0.5, 'open_loop/fde': 1.0},
        **{'reliance/lidar/open_loop/ade': 0.6, 'reliance/lidar/open_loop/fde': 1.5},
        **{'reliance/radar/open_loop/ade': 0.45, 'reliance/radar/open_loop/fde': 0.9},
    }
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in reliance_table(metrics).splitlines()]
    assert [row for row in rows if row][2:] == [
        ['none', '0.500', '+0.0%', '1.000'],
        ['LiDAR', '0.600', '+20.0%', '1.500'],
        ['radar', '0.450', '-10.0%', '0.900'],
    ]
