"""Every shipped config loads, builds and is what it says."""

from pathlib import Path

import pytest
from mmengine.registry import init_default_scope
from torch import nn

from thinktwice.config.load import load_config
from thinktwice.config.overrides import check_parts
from thinktwice.errors import ConfigError
from thinktwice.registry import HOOKS, MODELS

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS = sorted((REPOSITORY / 'configs' / 'variants').glob('*.py'))
LEAVES = [*sorted((REPOSITORY / 'configs').glob('*.py')), *VARIANTS]
PAPER = str(REPOSITORY / 'configs' / 'thinktwice.py')
MINITOWN = str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')


def build_model(path: str, **options) -> nn.Module:
    cfg = load_config(path, options)
    if cfg.model.img_encoder is not None and 'init_cfg' in cfg.model.img_encoder.backbone:
        cfg.model.img_encoder.backbone.init_cfg = None  # no download
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_leaf_is_short_and_builds(path):
    assert len(path.read_text().splitlines()) <= 40
    if path.stem == 'timm_backbone':
        pytest.importorskip('timm', reason='needs timm: pip install thinktwice[timm]')
    model = build_model(str(path))
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_hooks_of_a_leaf_are_known(path):
    cfg = load_config(str(path))
    init_default_scope(cfg.default_scope)
    hooks = [*cfg.custom_hooks, *(hook for hook in cfg.default_hooks.values() if hook)]
    for hook in hooks:
        assert HOOKS.get(hook.type) is not None, hook.type


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_parts_of_a_leaf_take_their_arguments(path):
    check_parts(load_config(str(path)))


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (dict(img_encoder=dict(bakbone={})), "model.img_encoder has no argument 'bakbone'.*backbone"),
        (
            dict(img_encoder=dict(backbone=dict(type='mmdet.ResNett'))),
            "model.img_encoder.backbone.type: no part is called 'mmdet.ResNett'. Did you mean mmdet.ResNet",
        ),
        (
            dict(losses=dict(action=dict(weigth=1.0))),
            "model.losses.action has no argument 'weigth'.*weight",
        ),
    ],
)
def test_misspelt_part_or_argument_of_a_file_is_named(part, message):
    cfg = load_config(MINITOWN)
    cfg.merge_from_dict(dict(model=part))
    with pytest.raises(ConfigError, match=rf'config {MINITOWN}: {message}'):
        check_parts(cfg)


def test_misspelt_argument_of_a_loader_is_named():
    cfg = load_config(MINITOWN)
    cfg.val_dataloader.num_worker = 2
    with pytest.raises(
        ConfigError, match="val_dataloader has no argument 'num_worker'. Did you mean num_workers"
    ):
        check_parts(cfg)


def test_paper_model_has_the_official_size_without_the_dead_parts():
    """128,232,121 official parameters minus five multilayer perceptrons that were never called."""
    model = build_model(PAPER)
    assert sum(parameter.numel() for parameter in model.parameters()) == 128_232_121 - 5 * 1_114_752


def test_paper_schedule():
    cfg = load_config(PAPER)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-7, fused=True)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=100)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (60, 8)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.end, warmup.start_factor) == (1000, 1 / 3)
    assert (cosine.T_max, cosine.end, cosine.eta_min_ratio) == (60, 60, 1e-3)


@pytest.mark.parametrize(
    ('options', 'towns', 'workers', 'caps'),
    [
        ({}, ['town01', 'town03', 'town04', 'town06'], 8, 189_524),
        (
            {'is_full': True},
            ['town01', 'town02', 'town03', 'town04', 'town05', 'town06', 'town07', 'town10'],
            8,
            None,
        ),
        ({'is_dev': True}, ['town01'], 0, 10),
        ({'is_dev': True, 'is_full': True}, ['town01'], 0, 10),
    ],
)
def test_switches_of_the_paper_config(options, towns, workers, caps):
    cfg = load_config(PAPER, options)
    split = cfg.train_dataloader.dataset.split
    assert list(split.towns) == towns
    assert cfg.train_dataloader.num_workers == cfg.val_dataloader.num_workers == workers
    assert cfg.train_dataloader.persistent_workers == (workers > 0)
    if caps is None or isinstance(split.caps, int):
        assert split.caps == caps
    else:
        assert sum(split.caps[town] for town in towns) == caps
    assert cfg.default_hooks.logger.interval == (1 if options.get('is_dev') else 50)
    assert 'val' in split.indices or options


def test_one_override_reaches_all_that_shares_a_value():
    cfg = load_config(
        MINITOWN,
        {
            'image_size': (96, 160),
            'num_frames': 1,
            'horizon': 3,
            'data_root': 'elsewhere',
            'batch_size': 5,
            'randomness.seed': 7,
        },
    )
    for name, loader in (
        ('train', cfg.train_dataloader),
        ('val', cfg.val_dataloader),
        ('test', cfg.test_dataloader),
    ):
        dataset = loader.dataset
        cameras = next(step for step in dataset.pipeline if step.type == 'LoadCameras')
        assert tuple(cameras.image_size) == (96, 160), name
        assert (dataset.num_frames, dataset.horizon, dataset.data_root) == (1, 3, 'elsewhere'), name
        assert loader.batch_size == 5, name
    assert cfg.train_dataloader.sampler.batch_size == 5
    assert cfg.train_dataloader.dataset.seed == 7
    assert cfg.model.img_encoder.num_frames == 1
    assert cfg.model.decoder.num_steps == 3


@pytest.mark.parametrize(
    'options', [{'num_frames': 1}, {'horizon': 3}, {'num_cameras': 3}, {'num_refine_layers': 0}]
)
def test_minitown_model_builds_at_other_sizes(options):
    build_model(MINITOWN, **options)
