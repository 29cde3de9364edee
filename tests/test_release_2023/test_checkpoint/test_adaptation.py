import logging
from types import SimpleNamespace

import pytest
import torch
from helpers.reference_config import REPOSITORY, write_small_configs

from thinktwice import apis
from thinktwice.config.load import load_config
from thinktwice.core.runner import DrivingRunner
from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.adaptation import OfficialWeightsHook, adapt_official_weights
from thinktwice.release_2023.checkpoint.conversion import build_model, model_shapes, ours_to_official


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    return write_small_configs(tmp_path_factory.mktemp('config'))


@pytest.fixture(scope='module')
def reference(configs):
    """A small model of the 2023 computation with random weights and statistics."""
    model = build_model(load_config(str(configs[1])))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope='module')
def main(configs):
    """The corrected model of the same size."""
    return build_model(load_config(str(configs[0])))


@pytest.fixture(scope='module')
def adapted(reference, main):
    return adapt_official_weights(reference.state_dict(), main)


def test_adapted_weights_fill_the_corrected_model(adapted, main):
    assert {name: tuple(value.shape) for name, value in adapted.weights.items()} == model_shapes(main)


def test_weights_of_unchanged_meaning_are_loaded_and_the_others_are_those_listed(adapted, reference, main):
    official = reference.state_dict()
    changed = [name for name, value in adapted.weights.items() if not torch.equal(value, official[name])]
    parts = ('lidar_look', 'ffn', 'camera_norm', 'seg_head.classify', 'seg_branch.layers.0.weight')
    assert changed
    assert all(any(part in name for part in parts) for name in changed)
    assert not any('camera_look.ffn' in name for name in changed)
    unchanged = len(adapted.weights) - len(changed)
    assert unchanged > 0.9 * len(adapted.weights)


def test_parts_that_were_never_trained_keep_the_initial_weights(adapted, main):
    own = main.state_dict()
    for name, value in adapted.weights.items():
        if '.lidar_look.' in name or '.prediction_module.ffn.' in name:
            assert torch.equal(value, own[name]), name


def test_segmentation_moves_by_one_class(adapted, reference):
    official = reference.state_dict()['img_encoder.seg_head.classify.weight']
    ours = adapted.weights['img_encoder.seg_head.classify.weight']
    assert torch.equal(ours[0], official[0])  # background
    assert torch.equal(ours[1], official[0])  # buildings, which were background
    assert torch.equal(ours[2:], official[1:-1])
    # the next branch computes the same from the moved outputs as from the official ones
    logits = torch.rand(12)
    logits[11] = 0  # never a target in 2023
    moved = torch.cat([logits[:1], logits[:-1]])
    name = 'img_encoder.seg_branch.layers.0.weight'
    before = reference.state_dict()[name][:, :, 0, 0] @ logits
    assert torch.allclose(adapted.weights[name][:, :, 0, 0] @ moved, before)


def test_camera_position_starts_without_effect(adapted, reference):
    prefix = 'img_encoder.depth_net.camera_norm.'
    position = torch.zeros(22, dtype=torch.bool)
    position[[13, 17, 21]] = True
    assert torch.equal(adapted.weights[prefix + 'weight'] == 0, position)
    variance = adapted.weights[prefix + 'running_var']
    assert torch.equal(variance[position], torch.ones(3))
    assert torch.equal(variance[~position], reference.state_dict()[prefix + 'running_var'][~position])


def test_every_change_is_listed(adapted):
    text = '\n'.join(adapted.notes)
    for row in ('M1', 'M3', 'M4', 'M5', 'M7', 'M26', 'look_feature_mlp'):
        assert row in text


def test_official_names_are_translated(reference, main, adapted):
    official = ours_to_official(reference.state_dict(), model_shapes(reference)).weights
    again = adapt_official_weights(official, main)
    assert again.notes == adapted.notes
    assert all(torch.equal(again.weights[name], value) for name, value in adapted.weights.items())


def test_reference_model_gets_its_weights_unchanged(reference):
    adapted = adapt_official_weights(reference.state_dict(), reference)
    assert adapted.notes == []
    assert all(torch.equal(adapted.weights[name], v) for name, v in reference.state_dict().items())


@pytest.mark.parametrize(('numerics', 'is_adapted'), [(None, False), ('2023', True)])
def test_weights_of_the_corrected_model_are_unchanged_unless_the_file_says_2023(main, numerics, is_adapted):
    adapted = adapt_official_weights(main.state_dict(), main, numerics)
    assert bool(adapted.notes) == is_adapted


def test_hook_adapts_a_checkpoint_and_logs_the_list(reference, main, caplog, monkeypatch):
    messages = []
    monkeypatch.setattr(
        'thinktwice.release_2023.checkpoint.adaptation.print_log',
        lambda text, **kwargs: messages.append((text, kwargs)),
    )
    checkpoint = {
        'state_dict': dict(reference.state_dict()),
        'optimizer': {},
    }
    OfficialWeightsHook().after_load_checkpoint(SimpleNamespace(model=main, _resume=False), checkpoint)
    assert set(checkpoint['state_dict']) == set(main.state_dict())
    ((text, arguments),) = messages
    assert arguments['level'] == logging.WARNING
    assert 'docs/reference_quirks.md' in text
    assert 'M26' in text


def test_weights_of_a_resumed_run_are_unchanged(reference, main):
    state = reference.state_dict()
    checkpoint = {'state_dict': state}
    OfficialWeightsHook().after_load_checkpoint(SimpleNamespace(model=main, _resume=True), checkpoint)
    assert checkpoint['state_dict'] is state


def test_evaluation_of_2023_weights_needs_the_reference_config(reference, main):
    hook, checkpoint = OfficialWeightsHook(fine_tuning=False), {'state_dict': reference.state_dict()}
    hook.after_load_checkpoint(SimpleNamespace(model=reference, _resume=False), checkpoint)
    assert set(checkpoint['state_dict']) == set(reference.state_dict())
    with pytest.raises(CheckpointError, match='configs/thinktwice_reference.py'):
        hook.after_load_checkpoint(SimpleNamespace(model=main, _resume=False), checkpoint)


def test_training_and_evaluation_register_the_hook(monkeypatch, tmp_path):
    hooks = []
    runner = SimpleNamespace(
        register_hook=hooks.append,
        build_all=lambda: None,
        train=lambda: None,
        test=lambda: {'ade': 1.0},
        train_loop=SimpleNamespace(describe_failure=lambda: ''),
    )
    monkeypatch.setattr(DrivingRunner, 'from_cfg', lambda cfg: runner)
    config = str(REPOSITORY / 'configs' / 'thinktwice_minitown.py')
    assert apis.train(config, work_dir=tmp_path) is None
    checkpoint = tmp_path / 'weights.pth'
    checkpoint.touch()
    assert apis.test(config, checkpoint, work_dir=tmp_path) == {'ade': 1.0}
    assert [hook.fine_tuning for hook in hooks] == [True, False]
