"""A model, its data and its predictions from Python."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.commands import REPOSITORY
from helpers.reference_config import write_small_configs
from helpers.tiny_dataset import equal
from mmengine.config import Config

from thinktwice.apis import draw_sample, init_agent, init_dataset, init_model, predict
from thinktwice.closed_loop.agent import SensorData
from thinktwice.closed_loop.controllers import BetaController
from thinktwice.config.load import load_config
from thinktwice.datasets import collate_samples
from thinktwice.datasets.calibration import package_calibration
from thinktwice.errors import CheckpointError, ConfigError
from thinktwice.geometry.route_planner import RouteNode
from thinktwice.minitown import record
from thinktwice.registry import HOOKS, MODELS
from thinktwice.release_2023.checkpoint.conversion import model_shapes, ours_to_official

MINITOWN = REPOSITORY / 'configs' / 'thinktwice_minitown.py'


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp('recorded') / 'town'
    record(root, routes=2, frames=8, size=(48, 64), towns=['town01_00', 'town02_00'])
    return {'data_root': str(root), 'num_cameras': 4}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that no two models of other random seeds share, with statistics of their own."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    torch.save({'state_dict': init_model(MINITOWN, device='cpu').state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def model(checkpoint: Path) -> Any:
    return init_model(str(MINITOWN), checkpoint, device='cpu')


def test_model_has_the_weights_and_is_in_evaluation_mode(model, checkpoint):
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert model.cfg.model.decoder.num_steps == 4


def test_splits_are_those_of_the_config(options):
    towns = {
        split: {init_dataset(MINITOWN, split, options)[0]['metas']['sample_id'][:6]}
        for split in ('train', 'val', 'test')
    }
    assert towns == {'train': {'town01'}, 'val': {'town02'}, 'test': {'town02'}}
    with pytest.raises(ConfigError, match='train, val, test'):
        init_dataset(MINITOWN, 'testing', options)


def test_labels_alone_are_those_of_whole_samples(options):
    whole, labels = (
        init_dataset(MINITOWN, 'train', options, labels_only=labels_only)[0] for labels_only in (False, True)
    )
    assert 'img' not in labels and 'points' not in labels
    for key in ('waypoints', 'action_alpha', 'action_beta'):
        assert torch.equal(torch.from_numpy(labels[key]), whole['targets'][key])
    assert labels['speed'] == pytest.approx(whole['inputs']['speed'].item())


def test_a_sample_gives_a_prediction_and_a_list_a_list(model, options):
    dataset = init_dataset(model.cfg, cfg_options={'val_dataloader.dataset.data_root': options['data_root']})
    samples = [dataset[0], dataset[1]]
    one, several = predict(model, samples[0]), predict(model, samples)
    with torch.no_grad():
        batch = model.data_preprocessor(collate_samples(samples), False)
        plans = model.predict_raw(batch['inputs'])['pred_waypoints'][:, -1]
    assert predict(model, []) == []
    assert len(several) == 2
    for prediction, plan in zip(several, plans, strict=True):
        assert torch.equal(prediction['waypoints'], plan)
    torch.testing.assert_close(one['waypoints'], plans[0])
    assert not one['waypoints'].requires_grad
    picture = draw_sample(samples[0], one)
    assert (picture.dtype, picture.shape[2]) == ('uint8', 3)


def test_config_may_be_an_object_and_stays_as_it_is(options):
    resolved, unresolved = load_config(MINITOWN, options), Config.fromfile(MINITOWN)
    before = resolved.to_dict(), unresolved.to_dict()
    first = init_dataset(resolved, 'val')
    second = init_dataset(unresolved, 'val', options)
    assert (resolved.to_dict(), unresolved.to_dict()) == before
    assert equal(first[0], second[0])
    resolved.val_dataloader = None
    with pytest.raises(ConfigError, match='no val_dataloader'):  # and not filled by data_modes again
        init_dataset(resolved, 'val')


def test_official_weights_load_into_the_reference_config_and_no_other(tmp_path):
    main, reference = write_small_configs(tmp_path)
    source = init_model(reference, device='cpu')
    official = ours_to_official(source.state_dict(), model_shapes(source)).weights
    torch.save(dict(official), tmp_path / 'official.pth')
    loaded = init_model(reference, tmp_path / 'official.pth', device='cpu').state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in source.state_dict().items())
    with pytest.raises(CheckpointError, match='configs/thinktwice_reference.py'):
        init_model(main, tmp_path / 'official.pth', device='cpu')


def test_agent_plans_as_predict_does_for_the_recorded_frames(model, options):
    dataset = init_dataset(MINITOWN, 'val', options)
    agent = init_agent(model, dataset.calibration, tick_seconds=0.5)
    plans: list[Any] = []
    model_predict = agent.predict
    agent.predict = lambda samples: plans.extend(model_predict(samples)) or plans[-1:]
    sample = dataset[0]
    town, route, _ = dataset.sample_id(0).split('/')
    reader, frame = dataset.storage.route(town, route), sample['metas']['frame']
    for number in (frame - 1, frame):
        values = reader.measurements(number)
        target = RouteNode(values['x_target'], values['y_target'], int(values['target_command']))
        if number < frame:
            agent.reset([RouteNode(values['x'], values['y'], 4), target])
        size = dataset.calibration.stored_size
        agent.step(
            SensorData(
                images={c.name: reader.rgb(c.rgb, number, size) for c in dataset.calibration.cameras},
                points=reader.points(number),
                position=(values['x'], values['y']),
                compass=values['theta'],
                speed=values['speed'],
            )
        )
    assert len(plans) == 1
    torch.testing.assert_close(plans[0], predict(model, sample), rtol=0, atol=1e-5)


def test_agent_has_the_cameras_of_the_pipeline_and_the_controller_asked_for(model):
    calibration = package_calibration()
    agent = init_agent(model, calibration, 0.05, 'beta', half_sweeps=True)
    assert agent.half_sweeps and not agent.smooth_position
    assert isinstance(agent.controller, BetaController)
    assert agent.calibration == calibration
    one_camera = SimpleNamespace(cfg=load_config(MINITOWN, {'cameras': ['left'], 'num_cameras': 1}))
    left = calibration.select(['left']).cameras
    assert init_agent(one_camera, calibration, 0.05).calibration.cameras == left
    with pytest.raises(ConfigError, match="beta, pid, fused, situation, got 'mpc'"):
        init_agent(model, calibration, 0.05, 'mpc')


def test_checkpoint_of_another_model_is_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match='does not fit the model'):
        init_model(MINITOWN, checkpoint, 'cpu', {'num_refine_layers': 0})
    with pytest.raises(FileNotFoundError, match='does not exist'):
        init_model(MINITOWN, tmp_path / 'missing.pth')


def test_missing_data_and_wrong_parts_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match=f'val_dataloader.dataset: .*{tmp_path}'):
        init_dataset(MINITOWN, 'val', {'data_root': str(tmp_path)})
    with pytest.raises(ConfigError, match='Did you mean num_refine_layers'):
        init_model(MINITOWN, cfg_options={'num_refine_layer': 1})


def test_unresolved_reference_says_what_to_call():
    with pytest.raises(ConfigError, match=r'\$\{\w+\}.*load_config.*init_model'):
        MODELS.build(Config.fromfile(MINITOWN).model)
    with pytest.raises(ConfigError, match=r'hook holds .*\$\{a.b\}'):
        HOOKS.build(dict(type='LoggerHook', interval='${a.b}'))
    assert HOOKS.build(dict(type='LoggerHook', interval=7)).interval == 7
