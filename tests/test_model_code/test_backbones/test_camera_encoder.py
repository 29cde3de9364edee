import re

import pytest
import torch
from helpers.small_encoders import camera_encoder, image_batch, parameters_without_gradient
from mmengine.model import BaseModule

from thinktwice.errors import ConfigError
from thinktwice.model_code.backbones import FrameMemory
from thinktwice.model_code.backbones.camera_vector import camera_vector


def frozen(encoder):
    """Evaluation mode, with statistics and gates that depend on the input."""
    torch.manual_seed(3)
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder.eval()


@pytest.mark.parametrize(('frames', 'cameras'), [(2, 4), (1, 3), (3, 1)])
def test_shapes_for_any_number_of_frames_and_cameras(frames, cameras):
    encoder = camera_encoder(num_frames=frames)
    out = encoder(**image_batch(2, frames, cameras))
    assert out.bev.shape == (2, 8, 12, 9)  # rows along x, columns along y
    assert out.depth_logits.shape == (2, cameras, 10, 4, 8)
    assert out.seg_logits.shape == (2, cameras, 5, 32, 64)
    assert [tuple(level.shape[:3]) for level in out.fpn] == [(2, cameras, 8)] * 4
    assert [tuple(level.shape[3:]) for level in out.fpn] == [(16, 32), (8, 16), (4, 8), (2, 4)]


@pytest.mark.parametrize(('batch', 'cameras'), [(2, 2), (1, 1)])
def test_one_training_step_reaches_every_parameter(batch, cameras):
    encoder = camera_encoder()
    for module in encoder.backbone.modules():
        if hasattr(module, 'bn2'):  # mmdet starts the residual branches at zero
            torch.nn.init.ones_(module.bn2.weight)
    out = encoder.train()(**image_batch(batch, 2, cameras, (128, 192)))
    loss = out.bev.square().mean() + out.depth_logits.square().mean() + out.seg_logits.square().mean()
    loss = loss + sum(level.square().mean() for level in out.fpn)
    loss.backward()
    assert parameters_without_gradient(encoder) == []


def test_mixed_precision_trains_on_the_cpu():
    encoder = camera_encoder().train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = encoder(**image_batch(1, 2, 2))
    (out.bev.float().square().mean() + out.depth_logits.float().square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in encoder.depth_net.parameters())


def test_poses_and_the_depth_distribution_keep_full_precision_under_autocast():
    encoder, batch = camera_encoder().eval(), image_batch(1, 2, 2)
    batch['cam2ego'][..., :3, 3] += torch.tensor([1e-3, 12.34567, 1e4])
    poses = [batch[name] for name in ('intrinsics', 'cam2ego', 'frame2key', 'ida_mats')]
    expected = encoder.frame_cameras(*poses, 0)
    lifted = []
    encoder.view_transform.register_forward_pre_hook(lambda _, inputs: lifted.append(inputs))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = encoder(**batch)
    (depth, *_), (_, _, _, cam2key, *_) = lifted  # of the key frame and of the one before it
    assert torch.equal(cam2key, expected.cam2key)
    assert depth.dtype == torch.float32
    assert torch.equal(depth, out.depth_logits.float().softmax(2))


def test_history_frames_get_no_gradient_and_the_key_frame_does():
    encoder = camera_encoder(num_frames=3)
    batch = image_batch(1, 3, 2)
    batch['img'].requires_grad_()
    encoder(**batch).bev.square().sum().backward()
    per_frame = batch['img'].grad.abs().sum(dim=(0, 2, 3, 4, 5))
    assert per_frame[0] == 0
    assert per_frame[1] == 0
    assert per_frame[2] > 0


def test_history_is_lifted_from_where_its_own_cameras_were():
    encoder = frozen(camera_encoder())
    batch = image_batch(1)
    reference = encoder(**batch).bev
    # the forward shift of the history frame, of its front camera, and its crop, in pixels
    for name, entry in {'frame2key': (0, 3), 'cam2ego': (0, 0, 3), 'ida_mats': (0, 0, 3)}.items():
        changed = {**batch, name: batch[name].clone()}
        changed[name][0, 0][entry] += 4.0
        assert (encoder(**changed).bev - reference).abs().max() > 1e-4, name


def test_key_frame_comes_first_and_history_follows_newest_first():
    encoder = frozen(camera_encoder(num_frames=3))
    batch = image_batch(1, 3)
    seen = {}

    def record(_module, inputs, _output):
        seen['maps'] = inputs[0].split(8, dim=1)

    encoder.merge_frames_conv.register_forward_hook(record)
    encoder(**batch)
    key, newest, oldest = seen['maps']
    for changed_frame, which in [(0, oldest), (1, newest), (2, key)]:
        before = [key, newest, oldest]
        img = batch['img'].clone()
        img[:, changed_frame] += 1
        encoder(**{**batch, 'img': img})
        equal = [torch.equal(a, b) for a, b in zip(before, seen['maps'], strict=True)]
        assert equal == [before_map is not which for before_map in before]


def test_frames_that_were_key_frames_are_not_encoded_again():
    encoder, frames, encoded = frozen(camera_encoder()), image_batch(2, 5), []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    # a drive whose history is two steps old
    steps = [{name: value[:, (t - 2, t)] for name, value in frames.items()} for t in (2, 3, 4)]
    with torch.no_grad():
        expected = [encoder(**step).bev for step in steps]
        encoded.clear()
        encoder.memory = FrameMemory(batches=3)
        found = [encoder(**step).bev for step in steps]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert encoded == [8, 8, 8, 8, 8]  # only the third step's history was a key frame

        other = {**steps[2], 'img': steps[2]['img'].clone()}
        other['img'][0, 0, 0, 0, 0, 0] += 1  # a pixel of one sample
        encoder.memory, remembering = None, encoder.memory
        expected_bev = encoder(**other).bev
        encoder.memory = remembering
        assert torch.equal(encoder(**other).bev, expected_bev)


def test_a_sample_alone_equals_the_sample_in_a_batch():
    encoder = frozen(camera_encoder())
    batch = image_batch(3)
    with torch.no_grad():
        together = encoder(**batch)
        alone = encoder(**{name: value[1:2] for name, value in batch.items()})
    for name in ('bev', 'depth_logits', 'seg_logits'):
        expected = getattr(together, name)[1:2]
        assert torch.allclose(getattr(alone, name), expected, atol=1e-5 * expected.abs().max().item()), name


def test_another_registered_backbone_and_other_levels():
    encoder = camera_encoder(
        backbone={'type': 'mmdet.MobileNetV2', 'widen_factor': 0.25, 'out_indices': (1, 2, 4)},
        neck={'type': 'mmdet.FPN', 'in_channels': [8, 8, 24], 'out_channels': 8, 'num_outs': 3},
        seg_head={
            'type': 'UNetSegmentationHead',
            'in_channels': (8, 8, 8),
            'up_channels': (8, 8),
            'head_channels': 4,
            'num_classes': 7,
        },
        seg_branch={'type': 'SegmentationFeatureBranch', 'num_classes': 7, 'units': ((4, 3, 2), (4, 3, 2))},
        lift_level=1,
        view_transform={
            'type': 'LiftSplat',
            'bev_grid': {'x_bounds': (0, 40, 2), 'y_bounds': (-10, 10, 4), 'z_bounds': (-2, 4, 6)},
            'depth_bounds': (2, 42, 1),
        },
    )
    out = encoder(**image_batch())
    assert out.bev.shape == (2, 8, 20, 5)
    assert out.depth_logits.shape == (2, 4, 40, 8, 16)
    assert out.seg_logits.shape == (2, 4, 7, 32, 64)
    assert len(out.fpn) == 3
    assert isinstance(encoder, BaseModule)


def test_another_number_of_frames_than_configured_is_refused():
    encoder = camera_encoder()
    with pytest.raises(ConfigError, match='1 frames.*num_frames=2'):
        encoder(**image_batch(frames=1))
    with pytest.raises(ValueError, match='num_frames'):
        camera_encoder(num_frames=0)


@pytest.mark.parametrize(
    ('size', 'nearest'),
    [((60, 100), (64, 96)), ((62, 128), (64, 128)), ((72, 128), (64, 128)), ((10, 40), (32, 32))],
)
def test_an_image_size_that_does_not_halve_is_refused_with_the_nearest_that_does(size, nearest):
    with pytest.raises(ConfigError, match=r'multiples of 32.*image_size=' + re.escape(str(nearest))):
        camera_encoder()(**image_batch(1, image_size=size))


def test_a_neck_for_another_backbone_is_refused_with_the_channels_it_needs():
    neck = {'type': 'mmdet.PAFPN', 'in_channels': [8, 16, 24, 64], 'out_channels': 8, 'num_outs': 4}
    expected = re.escape('neck.in_channels=[8, 16, 32, 64]')
    with pytest.raises(ConfigError, match=expected):
        camera_encoder(neck=neck)(**image_batch(1))
    with pytest.raises(ConfigError, match=expected):
        camera_encoder(neck={**neck, 'in_channels': [8, 16, 32]})(**image_batch(1))


def test_camera_vector_holds_lens_augmentation_and_pose():
    batch = image_batch(1, 1, 2)
    vector = camera_vector(batch['intrinsics'], batch['ida_mats'], batch['cam2ego'])[0, 0, 1].tolist()
    ida, cam2ego = batch['ida_mats'][0, 0, 1].tolist(), batch['cam2ego'][0, 0, 1].tolist()
    expected = [51.2, 51.2, 64.0, 32.0, *(ida[0][i] for i in (0, 1, 3)), *(ida[1][i] for i in (0, 1, 3))]
    expected += cam2ego[0] + cam2ego[1] + cam2ego[2]
    assert vector == pytest.approx(expected)
    # the position of the left camera, which 2023 lost by transposing instead of inverting
    assert [vector[13], vector[17], vector[21]] == pytest.approx([0, -0.3, 2.5])


def test_camera_norm_can_be_fixed_and_other_names_are_refused():
    depth_net = {
        'type': 'CameraAwareDepthNet', 'in_channels': 4, 'mid_channels': 4, 'context_channels': 8,
        'aspp_dilations': (1,), 'num_residual_blocks': 0,
    }  # fmt: skip
    encoder = camera_encoder(depth_net={**depth_net, 'camera_norm': 'fixed'})
    assert not any('camera_norm' in name for name in encoder.state_dict())
    assert encoder(**image_batch()).bev.isfinite().all()
    with pytest.raises(ValueError, match='camera_norm'):
        camera_encoder(depth_net={**depth_net, 'camera_norm': 'layer'})
