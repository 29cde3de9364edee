"""Several datasets as one, and a dataset repeated: samples, indices, metainfo."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_dataset import equal, pipeline, write_dataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from thinktwice.apis import train
from thinktwice.config.modes import resolve_loaders, resolve_modes
from thinktwice.datasets import CarlaDataset, SampleKey
from thinktwice.errors import ConfigError
from thinktwice.minitown import record
from thinktwice.registry import DATASETS

MINITOWN = Path(__file__).resolve().parents[2] / 'configs' / 'thinktwice_minitown.py'


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        write_dataset(tmp_path_factory.mktemp('first'), {'town01_00/routes_a': 8, 'town02_00/routes_b': 7}),
        write_dataset(tmp_path_factory.mktemp('second'), {'town01_00/routes_c': 9}),
    ]


def config_of(root: Path, **changes: Any) -> dict[str, Any]:
    return {'type': 'CarlaDataset', 'data_root': str(root), 'pipeline': pipeline(), **changes}


def concat(roots: list[Path], **changes: Any) -> Any:
    return DATASETS.build(
        {'type': 'ConcatDataset', 'datasets': [config_of(root, **changes) for root in roots]}
    )


def test_concatenated_samples_are_those_of_the_datasets_in_order(roots: list[Path]) -> None:
    whole, parts = concat(roots), [CarlaDataset(root, pipeline()) for root in roots]
    assert len(whole) == 5 + 4
    expected = [part[SampleKey(i, 2)] for part in parts for i in range(len(part))]
    for index, one in enumerate(expected):
        sample = whole[SampleKey(index, 2)]
        assert equal(sample['inputs'], one['inputs']) and equal(sample['targets'], one['targets'])
        assert sample['metas']['sample_id'] == one['metas']['sample_id']
        assert sample['metas']['index'] == sample['metas']['requested_index'] == index
    assert whole[3]['metas']['epoch'] == 0
    with pytest.raises(IndexError, match=r'outside 0\.\.8'):
        whole[9]


def test_metainfo_names_all_roots(roots: list[Path]) -> None:
    metainfo = concat(roots).metainfo
    assert metainfo['data_root'] == f'{roots[0]}, {roots[1]}'
    assert metainfo['horizon'] == 4


def test_datasets_that_do_not_go_together_are_refused_by_key(roots: list[Path]) -> None:
    parts = [CarlaDataset(roots[0], pipeline()), CarlaDataset(roots[1], pipeline(), horizon=2)]
    with pytest.raises(ConfigError, match=r'horizon is 4 in datasets\.0 .* but 2 in datasets\.1'):
        DATASETS.build({'type': 'ConcatDataset', 'datasets': parts})
    with pytest.raises(ConfigError, match='datasets is empty'):
        DATASETS.build({'type': 'ConcatDataset', 'datasets': []})


def test_repetitions_hold_the_same_frames_augmented_differently(roots: list[Path]) -> None:
    dataset = DATASETS.build({'type': 'RepeatDataset', 'times': 3, 'dataset': config_of(roots[1])})
    assert len(dataset) == 12
    copies = [dataset[SampleKey(index, 1)] for index in (2, 6, 10)]
    assert {copy['metas']['sample_id'] for copy in copies} == {copies[0]['metas']['sample_id']}
    assert [copy['metas']['index'] for copy in copies] == [2, 6, 10]
    assert not torch.equal(copies[0]['inputs']['img'], copies[1]['inputs']['img'])
    assert equal(dataset[SampleKey(6, 1)], copies[1])
    other_epochs = [dataset[SampleKey(2, epoch)]['metas']['seed'] for epoch in range(3)]
    assert len({*other_epochs, *(copy['metas']['seed'] for copy in copies)}) == 5
    with pytest.raises(ConfigError, match='times must be a whole number >= 1'):
        DATASETS.build({'type': 'RepeatDataset', 'times': 0, 'dataset': config_of(roots[1])})


def test_wrappers_can_be_nested(roots: list[Path]) -> None:
    repeated = {'type': 'RepeatDataset', 'times': 2, 'dataset': config_of(roots[1])}
    whole = DATASETS.build({'type': 'ConcatDataset', 'datasets': [config_of(roots[0]), repeated]})
    metas = [whole[index]['metas'] for index in range(len(whole))]
    assert [meta['index'] for meta in metas] == list(range(5 + 8))
    assert [meta['sample_id'] for meta in metas[5:9]] == [meta['sample_id'] for meta in metas[9:]]


def test_runner_builds_a_loader_over_a_wrapper(roots: list[Path]) -> None:
    init_default_scope('thinktwice')
    datasets = [config_of(root) for root in roots]
    config = {
        'batch_size': 3,
        'num_workers': 0,
        'dataset': {'type': 'ConcatDataset', 'datasets': datasets},
        'sampler': {'type': 'TrainSampler', 'batch_size': 3},
        'collate_fn': {'type': 'thinktwice.collate_samples'},
    }
    seen = [meta['index'] for batch in Runner.build_dataloader(config, seed=1) for meta in batch['metas']]
    assert sorted(seen) == list(range(9))


def test_data_modes_and_seed_reach_the_datasets_in_a_wrapper() -> None:
    own = {'towns': ['town07'], 'indices': ['00']}
    repeated = dict(type='RepeatDataset', times=2, dataset=dict(type='CarlaDataset', split=None, seed=None))
    datasets = [repeated, dict(type='CarlaDataset', split=own)]
    loader = dict(batch_size=1, num_workers=None, dataset=dict(type='ConcatDataset', datasets=datasets))
    split = {'towns': ['town01'], 'indices': ['00']}
    modes = {'default': {'train_dataloader': {'num_workers': 0, 'dataset': {'split': split}}}}
    cfg = Config(dict(train_dataloader=loader, data_modes=modes, randomness=dict(seed=7)))
    resolve_modes(cfg)
    resolve_loaders(cfg)
    filled = cfg.train_dataloader.dataset.datasets
    assert filled[0].dataset.split == split and filled[0].dataset.seed == 7
    assert filled[1].split == own

    datasets[1].pop('split')
    cfg = Config(dict(train_dataloader=loader, data_modes=modes))
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset\.datasets\.1\.split'):
        resolve_modes(cfg)


@pytest.mark.slow
def test_training_and_evaluation_over_two_roots(tmp_path: Path) -> None:
    for number in (1, 2):
        record(
            tmp_path / f'town{number}', routes=1, frames=9, seed=number, size=(64, 114), towns=['town01_00']
        )
    config = tmp_path / 'two_roots.py'
    config.write_text(f"""
_base_ = {str(MINITOWN)!r}
is_dev = True
batch_size = 2
_part = dict(type='CarlaDataset', split=None, on_error='skip')
_roots = [{str(tmp_path / 'town1')!r}, {str(tmp_path / 'town2')!r}]
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(_part, data_root=root, pipeline='${{train_pipeline}}') for root in _roots]))
val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(_part, data_root=root, pipeline='${{test_pipeline}}', test_mode=True) for root in _roots]))
""")
    train(config, work_dir=tmp_path / 'run', cfg_options={'train_cfg.max_iters': 2})
    scalars = next((tmp_path / 'run').rglob('scalars.json')).read_text().splitlines()
    assert json.loads(scalars[-1])['val/open_loop/samples'] == 2 * (9 - 5)
