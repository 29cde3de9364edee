import copy
import re

import helpers.small_driver
import pytest
import torch
from helpers.small_decoder import without_gradient
from helpers.small_driver import LOSSES, inputs_for, small_driver, targets_for
from torch.utils._pytree import tree_map_only

from thinktwice.errors import ConfigError
from thinktwice.model_code.dense_heads import Planner
from thinktwice.registry import MODELS

LOSS_NAMES = {
    'action_loss', 'future_action_loss', 'wp_loss', 'speed_loss', 'value_loss', 'flattened_feature_loss',
    'BEV_feature_loss2', 'BEV_feature_loss3', 'BEV_feature_loss4', 'refine_BEV_feature_loss2',
    'refine_flattened_feature_loss', 'teacher_wp_loss', 'teacher_action_loss',
    'teacher_future_BEV_feature_loss2', 'teacher_refine_BEV_feature_loss2',
    'teacher_refine_flattened_feature_loss', 'seg_loss', 'depth_loss',
}  # fmt: skip
METRIC_NAMES = {
    'current_throttle_brake_offset', 'current_steer_offset', 'longitudinal_offset', 'lateral_offset',
}  # fmt: skip


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


def noise(value):
    """Random values in the shape and type of a target."""
    if isinstance(value, list):
        return [noise(entry) for entry in value]
    return (
        torch.randint(0, 5, value.shape).to(value)
        if not value.is_floating_point()
        else torch.randn_like(value)
    )


def sample_of(inputs, b):
    return {name: value[b : b + 1] for name, value in inputs.items()}


def test_loss_mode_gives_every_loss_and_metric_as_a_scalar() -> None:
    losses = small_driver()(inputs_for(), targets_for(), mode='loss')
    assert set(losses) == LOSS_NAMES | METRIC_NAMES
    for name, value in losses.items():
        assert value.shape == () and value.isfinite()
        assert value.requires_grad == (name in LOSS_NAMES)


@pytest.mark.parametrize(
    ('batch', 'frames', 'cameras', 'steps', 'decoder'),
    [
        (2, 2, 4, 4, {}),
        (1, 2, 4, 4, {}),
        (1, 1, 3, 3, {'num_refine_layers': 1}),
        (2, 1, 1, 6, {'num_refine_layers': 0}),
    ],
)
def test_every_parameter_is_reached_in_the_first_two_steps(batch, frames, cameras, steps, decoder) -> None:
    model = small_driver(frames, num_cameras=cameras, num_steps=steps, **decoder)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    unreached = {name for name, _ in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        total(
            model(inputs_for(batch, frames, cameras), targets_for(batch, cameras, steps), mode='loss')
        ).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in model.parameters())
        unreached &= set(without_gradient(model))
        optimizer.step()
    assert not unreached


def test_predictions_are_the_last_stage_and_its_action() -> None:
    model = small_driver().eval()
    inputs = inputs_for()
    predictions, raw = model(inputs, mode='predict'), model(inputs)
    assert len(predictions) == 2
    for b, prediction in enumerate(predictions):
        assert {name: tuple(value.shape) for name, value in prediction.items()} == {
            'waypoints': (4, 2),
            'waypoints_stages': (3, 4, 2),
            'alpha': (2,),
            'beta': (2,),
            'action': (2,),
            'depth_logits': tuple(raw['depth_logits'][b].shape),
            'seg_logits': tuple(raw['seg_logits'][b].shape),
        }
        torch.testing.assert_close(prediction['waypoints'], raw['pred_waypoints'][b, -1])
        torch.testing.assert_close(prediction['alpha'], raw['pred_alpha'][b, -1, 0])
        assert prediction['action'].abs().max() <= 1


def test_predictions_do_not_depend_on_targets() -> None:
    model = small_driver().eval()
    inputs, targets = inputs_for(), targets_for()
    before = model(inputs, mode='predict')
    for given in (targets, {name: noise(value) for name, value in targets.items()}, {}):
        for prediction, expected in zip(model(inputs, given, mode='predict'), before, strict=True):
            for name, value in expected.items():
                assert torch.equal(prediction[name], value)


def test_the_losses_plan_is_the_predicted_one_whatever_the_targets() -> None:
    """The teacher pass runs beside the model's own; targets must not leak into its plan."""
    model = small_driver().eval()
    seen = []
    model.losses['term_0'].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    inputs, targets = inputs_for(), targets_for()
    model(inputs, targets, mode='loss')
    other = {name: value if 'action' in name else noise(value) for name, value in targets.items()}
    model(inputs, other, mode='loss')
    for name in ('pred_waypoints', 'pred_alpha', 'refine_bev_map', 'depth_logits', 'seg_logits'):
        assert torch.equal(seen[0][name], seen[1][name])
    assert not torch.equal(seen[0]['teacher_waypoint_offset'], seen[1]['teacher_waypoint_offset'])


def test_a_sample_is_predicted_the_same_alone_and_in_a_batch() -> None:
    model = small_driver().eval()
    inputs = inputs_for(batch=3)
    together = model(inputs, mode='predict')
    for b in range(3):
        (alone,) = model(sample_of(inputs, b), mode='predict')
        for name, value in alone.items():
            torch.testing.assert_close(value, together[b][name], atol=1e-5, rtol=1e-5)


def test_the_cameras_of_the_key_frame_are_looked_at() -> None:
    model = small_driver().eval()
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].images))
    inputs = inputs_for()
    inputs['cam2ego'][:, 0, :, 0, 3] += 100
    inputs['ida_mats'][:, 0, :, 0, 3] += 100
    model(inputs)
    (images,) = seen
    key_pose = torch.linalg.inv(inputs['cam2ego'][:, 1])
    torch.testing.assert_close(images.ego2img[..., :3, :], inputs['intrinsics'][:, 1] @ key_pose[..., :3, :])
    assert torch.equal(images.ida_mats, inputs['ida_mats'][:, 1])
    assert images.image_size == (64, 128)


def test_a_training_step_of_the_runner_s_kind_changes_the_weights() -> None:
    from mmengine.optim import OptimWrapper

    model = small_driver()
    before = copy.deepcopy(model.state_dict())
    inputs = inputs_for()
    inputs['img'] = torch.randint(0, 256, inputs['img'].shape, dtype=torch.uint8)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-4))
    logs = model.train_step({'inputs': inputs, 'targets': targets_for(), 'metas': [{}, {}]}, wrapper)
    torch.testing.assert_close(logs['loss'], sum(logs[name] for name in LOSS_NAMES))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert 'decoder.coarse_head.output_traj.0.weight' in changed


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_each_loss_is_nearly_the_same_in_mixed_precision(dtype: torch.dtype) -> None:
    model = small_driver().eval()
    inputs, targets = inputs_for(), targets_for()
    plain = model(inputs, targets, mode='loss')
    with torch.autocast('cpu', dtype):
        mixed = model(inputs, targets, mode='loss')
    for name, value in plain.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, rtol=0.01, atol=1e-4, msg=name)


@pytest.mark.cuda
@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=['float32', 'bfloat16'])
def test_losses_and_gradients_on_the_gpu_are_those_of_the_cpu(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    inputs, targets = inputs_for(), targets_for()
    tolerance = 1e-3 if dtype is None else 0.02
    on_cpu = small_driver().eval()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    expected = on_cpu(inputs, targets, mode='loss')
    with torch.autocast('cuda', dtype=dtype, enabled=dtype is not None):
        found = on_gpu(*tree_map_only(torch.Tensor, torch.Tensor.cuda, (inputs, targets)), mode='loss')
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=tolerance, atol=1e-4, msg=name)
    total(expected).backward()
    total(found).backward()
    for part, copied in zip(on_cpu.children(), on_gpu.children(), strict=True):
        pairs = [(p, q) for p, q in zip(part.parameters(), copied.parameters(), strict=True)]
        norm = sum(p.grad.square().sum() for p, _ in pairs if p.grad is not None)
        error = sum((p.grad - q.grad.cpu()).square().sum() for p, q in pairs if p.grad is not None)
        assert error <= tolerance * norm


def test_plan_is_accumulated_in_float32_under_autocast() -> None:
    model = small_driver().eval()
    for name, parameter in model.named_parameters():
        if 'offset_module' in name or 'output_traj' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    inputs = inputs_for()
    with torch.autocast('cpu', torch.bfloat16):
        predictions = model(inputs)
    for name in ('pred_waypoints', 'pred_alpha', 'pred_beta', 'pred_speed', 'pred_value_traj'):
        values = predictions[name]
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float()), f'{name} has the steps of bfloat16'


def test_teacher_forcing_pass_runs_only_if_a_loss_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [loss for loss in LOSSES if not loss['type'].startswith('Teacher')]
    model = small_driver(losses=others).eval()
    expected = small_driver().eval()
    expected.load_state_dict(model.state_dict())
    inputs, targets = inputs_for(), targets_for()
    all_terms = expected(inputs, targets, mode='loss')
    monkeypatch.setattr(model.decoder, 'teacher_controls', None)  # calling it would fail
    terms = model(inputs, targets, mode='loss')
    assert {name for name in all_terms if name.startswith('teacher')} == all_terms.keys() - terms.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, all_terms[name], atol=1e-5, rtol=1e-5)


def test_missing_targets_are_named_with_who_needs_them() -> None:
    model = small_driver()
    targets = targets_for()
    del targets['depth']
    with pytest.raises(ValueError, match=r"depth \(for DepthLoss\).*mode='predict'"):
        model(inputs_for(), targets, mode='loss')
    with pytest.raises(ValueError, match='action_alpha'):
        model(inputs_for(), mode='loss')


def test_losses_that_clash_or_lack_are_refused() -> None:
    with pytest.raises(ValueError, match="two of the configured losses are named 'wp_loss'"):
        small_driver(losses=[*LOSSES, {'type': 'WaypointLoss', 'weight': 1.0}])(
            inputs_for(), targets_for(), mode='loss'
        )
    with pytest.raises(ValueError, match='without losses'):
        small_driver(losses=[])(inputs_for(), targets_for(), mode='loss')


def test_a_bev_map_of_another_size_than_the_flatten_head_takes_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(helpers.small_driver, 'BEV_SIZE', (9, 12))
    with pytest.raises(
        ConfigError, match=r'bev_cell give .* \(12, 9\) .*flatten_head\.bev_size is \(9, 12\)'
    ):
        small_driver()


def test_frozen_parts_stay_as_they_are_in_training() -> None:
    model = small_driver(parts={'frozen': ('img_encoder', 'bev_fusion')})
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = model(inputs_for(), targets_for(), mode='loss')
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert not [name for name in changed if name.startswith(('img_encoder', 'bev_fusion'))]
    parts = {name.partition('.')[0] for name in changed}
    assert {'lidar_encoder', 'flatten_head', 'measurement_encoder', 'decoder'} <= parts
    assert any(name.startswith('lidar_encoder') and 'running_mean' in name for name in changed)


def test_freezing_a_part_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.frozen lists 'camera'.*img_encoder"):
        small_driver(parts={'frozen': ('camera',)})


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='train' must be 'tensor', 'loss' or 'predict'"):
        small_driver()(inputs_for(), mode='train')


CAMERAS_ALONE = {'lidar_encoder': None, 'bev_fusion': {'lidar_channels': None}}
LIDAR_ALONE = {
    'img_encoder': None,
    'bev_fusion': {'camera_channels': None},
    'flatten_head': {'bev_size': (20, 18)},  # cells of the LiDAR encoder's map
}
IMAGES = {
    'type': 'ImageSceneEncoder',
    'backbone': {'type': 'mmdet.ResNet', 'depth': 18, 'base_channels': 8},
    'num_cameras': 4,
    'in_channels': 64,
    'out_channels': 9,
}
NO_SEGMENTATION = {'img_encoder': {'seg_head': None, 'seg_branch': None}}
IMAGE_LOSSES = ('SegmentationLoss', 'DepthLoss')
MAP_LOSSES = ('BEVFeatureLoss', 'RefineFeatureLoss', 'TeacherForcingFeatureLoss')


def losses_without(*types):
    return [loss for loss in LOSSES if loss['type'] not in types]


@pytest.mark.parametrize(
    ('parts', 'decoder', 'left_out', 'absent'),
    [
        (CAMERAS_ALONE, {'lidar_look': None}, (), ('points',)),
        (LIDAR_ALONE, {'camera_look': None}, (*IMAGE_LOSSES, *MAP_LOSSES), ('img', 'intrinsics')),
        (NO_SEGMENTATION, {}, ('SegmentationLoss',), ()),
    ],
)
def test_a_model_without_a_branch_trains_all_it_has_on_what_it_needs(
    parts, decoder, left_out, absent
) -> None:
    model = small_driver(parts=parts, losses=losses_without(*left_out), **decoder).train()
    inputs = {key: value for key, value in inputs_for().items() if key not in absent}
    total(model(inputs, targets_for(), mode='loss')).backward()
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    if 'RefineFeatureLoss' in left_out:
        # the scene after the last layer has no other use, and the vector none without a camera look
        unused = r'decoder.layers.(1.bev_map|\d.bev_vector)_update'
        unreached = {name for name in unreached if not re.match(unused, name)}
    assert not unreached
    predictions = model.eval()(inputs, mode='predict')
    assert predictions[0]['waypoints'].shape == (4, 2)
    assert ('depth_logits' in predictions[0]) == ('img' not in absent)


@pytest.mark.parametrize(
    ('parts', 'decoder', 'absent', 'message'),
    [
        ({'lidar_encoder': None}, {}, (), 'bev_fusion is given no lidar map: set lidar_channels=None'),
        (CAMERAS_ALONE, {}, (), 'ThinkTwiceDecoder reads lidar_map'),
        ({}, {}, ('points',), 'lidar_encoder reads points'),
        ({}, {}, ('img', 'ida_mats'), 'img_encoder reads img, ida_mats'),
        (NO_SEGMENTATION, {}, (), r'losses\.term_9 reads seg_logits'),
        ({'img_encoder': {'seg_head': None}}, {}, (), 'seg_branch reads the logits of seg_head'),
        ({'bev_fusion': None}, {}, (), 'flatten_head needs bev_fusion'),
        (
            {'img_encoder': None, 'lidar_encoder': None},
            {},
            (),
            'bev_fusion needs img_encoder or lidar_encoder',
        ),
        ({'scene_encoder': IMAGES}, {}, (), 'there is img_encoder too'),
        (
            LIDAR_ALONE | {'flatten_head': {'bev_size': (12, 9)}},
            {'camera_look': None},
            (),
            r'map of \(20, 18\)',
        ),
    ],
)
def test_parts_that_do_not_fit_are_named_with_what_to_change(parts, decoder, absent, message) -> None:
    inputs = {key: value for key, value in inputs_for().items() if key not in absent}
    with pytest.raises(ConfigError, match=message):
        small_driver(parts=parts, **decoder)(inputs, targets_for(), mode='loss')


def test_a_planner_without_teacher_forcing_refuses_its_losses() -> None:
    model = small_driver(losses=losses_without(*MAP_LOSSES))
    model.decoder = MODELS.build({'type': 'EgoStatusPlanner', 'measurement_channels': 5})
    with pytest.raises(ConfigError, match='reads the teacher-forcing pass, which EgoStatusPlanner'):
        model(inputs_for(), targets_for(), mode='loss')


class PlainWaypoints(Planner):
    """Returns what it was given as the plan."""

    result: object = None

    def forward(self, scene, measurements, teacher=None):
        return self.result


@pytest.mark.parametrize(
    ('result', 'found'),
    [
        ({'pred_waypoints': torch.zeros(2, 4, 2)}, r'of shape \(2, 4, 2\)'),
        ({'pred_waypoints': torch.zeros(2, 1, 4, 3)}, r'of shape \(2, 1, 4, 3\)'),
        ({'waypoints': torch.zeros(2, 1, 4, 2)}, 'missing'),
        (torch.zeros(2, 1, 4, 2), 'missing'),
    ],
)
def test_a_planner_that_returns_another_plan_is_told_which(result, found) -> None:
    model = small_driver().eval()
    model.decoder = PlainWaypoints()
    model.decoder.result = result
    with pytest.raises(ConfigError, match=rf'PlainWaypoints must return .*\(B, stages, K, 2\).* {found}'):
        model(inputs_for())
    model.decoder.result = {'pred_waypoints': torch.zeros(2, 1, 4, 2)}
    assert model(inputs_for(), mode='predict')[0]['waypoints'].shape == (4, 2)


def test_parts_that_are_none_of_their_kind_are_refused() -> None:
    config = {'type': 'MeasurementEncoder', 'hidden_channels': 4, 'out_channels': 4}
    with pytest.raises(ConfigError, match=r'model\.decoder MeasurementEncoder must be a subclass of Planner'):
        MODELS.build({'type': 'EncoderDecoder', 'measurement_encoder': config, 'decoder': config})
    planner = {'type': 'EgoStatusPlanner', 'measurement_channels': 4}
    with pytest.raises(ConfigError, match=r'scene_encoder MeasurementEncoder must be a subclass of SceneEn'):
        MODELS.build(
            {
                'type': 'EncoderDecoder',
                'measurement_encoder': config,
                'decoder': planner,
                'scene_encoder': config,
            }
        )
