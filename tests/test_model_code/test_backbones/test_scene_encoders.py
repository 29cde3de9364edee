"""Encoders of all sensors: TransFuser's and that of images alone; backbones of timm."""

import pytest
import torch
from helpers.small_driver import inputs_for

from thinktwice.errors import ConfigError
from thinktwice.model_code.backbones import ImageSceneEncoder, TimmBackbone, TransFuserEncoder

RESNET = {'type': 'mmdet.ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8}
TWO_STAGES = {**RESNET, 'num_stages': 2, 'strides': (1, 2), 'dilations': (1, 1), 'out_indices': (0, 1)}
GRID = {'x_bounds': (-8.0, 24.0, 0.5), 'y_bounds': (-16.0, 16.0, 0.5), 'z_bounds': (-4.0, 10.0, 14.0)}


def transfuser(**options) -> TransFuserEncoder:
    arguments = {
        'image_backbone': RESNET,
        'lidar_backbone': {**RESNET, 'in_channels': 2},
        'bev_grid': GRID,
        'num_cameras': 4,
        'channels': 10,
        'token_channels': (8, 8, 16, 16),
        'image_cells': (2, 3),
        'lidar_cells': (3, 3),
        'num_layers': 1,
        'num_heads': 2,
    }
    encoder = TransFuserEncoder(**{**arguments, **options})
    encoder.init_weights()
    return encoder


def test_scene_of_transfuser_has_vector_images_and_lidar_map() -> None:
    encoder = transfuser()
    scene = encoder(inputs_for())
    assert scene.vector.shape == (2, 10) and scene.bev_map is None
    assert [level.shape[:3] for level in scene.images.levels] == [(2, 4, c) for c in (8, 16, 32, 64)]
    assert scene.lidar_map.shape[:2] == (2, 64)
    scene.vector.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_each_sensor_reaches_the_features_of_the_other() -> None:
    encoder, inputs = transfuser().eval(), inputs_for()
    before = encoder(inputs)
    other_images = encoder({**inputs, 'img': inputs['img'] + 1})
    assert not torch.allclose(before.lidar_map, other_images.lidar_map)
    other_points = encoder({**inputs, 'points': [cloud[:50] for cloud in inputs['points']]})
    assert not torch.allclose(before.images.levels[-1], other_points.images.levels[-1])
    history = inputs['img'].clone()
    history[:, 0] += 1
    assert torch.equal(before.vector, encoder({**inputs, 'img': history}).vector)


def test_lidar_image_counts_the_points_of_the_key_frame() -> None:
    encoder = transfuser()
    cloud = torch.rand(3000, 5) * torch.tensor([50.0, 50.0, 4.0, 1.0, 0.0]) - torch.tensor(
        [16.0, 25, 2, 0, 0]
    )
    cloud[::3, 4] = -1
    image = encoder.lidar_image([cloud, cloud[:0]])
    counts = torch.zeros(2, 64, 64)
    for x, y, z, _, frame in cloud.tolist():
        row, column = int((24.0 - x) // 0.5), int((y + 16.0) // 0.5)
        if frame == 0 and -8 <= x < 24 and -16 <= y < 16:
            counts[int(z > 0.2), row, column] += 1
    torch.testing.assert_close(image[0], counts.clamp(max=5) / 5)
    assert not image[1].any()


def test_vector_of_images_alone_joins_the_cameras_in_order() -> None:
    encoder = ImageSceneEncoder(RESNET, num_cameras=4, in_channels=64, out_channels=10).eval()
    inputs = inputs_for()
    scene = encoder(inputs)
    assert scene.vector.shape == (2, 10) and scene.lidar_map is None
    turned = encoder({**inputs, 'img': inputs['img'].flip(2)})
    assert not torch.allclose(scene.vector, turned.vector)
    torch.testing.assert_close(scene.images.levels[-1], turned.images.levels[-1].flip(1))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'token_channels': (8, 8)}, 'token_channels 2 entries'),
        ({'lidar_backbone': TWO_STAGES}, 'have 4 and 2 stages'),
        (
            {'image_backbone': {'type': 'mmdet.CSPDarknet'}},
            'needs mmdet.ResNet or .* not CSPDarknet',
        ),
    ],
)
def test_backbones_that_cannot_exchange_features_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        transfuser(**options)


def test_another_number_of_cameras_is_refused() -> None:
    with pytest.raises(ConfigError, match='num_cameras=3, but the samples hold 4 cameras'):
        transfuser(num_cameras=3)(inputs_for())


def test_levels_of_timm_have_the_strides_asked_for(tmp_path) -> None:
    timm = pytest.importorskip('timm', reason='needs timm: pip install thinktwice[timm]')
    weights = tmp_path / 'weights.pth'
    donor = timm.create_model('resnet10t')
    torch.save(donor.state_dict(), weights)
    backbone = TimmBackbone('resnet10t', strides=(8, 32), checkpoint=str(weights))
    backbone.init_weights()
    levels = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [
        (1, backbone.out_channels[0], 8, 12), (1, backbone.out_channels[1], 2, 3)
    ]  # fmt: skip
    loaded = backbone.state_dict()
    assert torch.equal(loaded['model.layer1.0.conv1.weight'], donor.state_dict()['layer1.0.conv1.weight'])
    with pytest.raises(ConfigError, match='no model'):
        TimmBackbone('resnet10_of_mine')
    with pytest.raises(ConfigError, match=r'no levels of strides \(3,\)'):
        TimmBackbone('resnet10t', strides=(3,))
    with pytest.raises(FileNotFoundError, match='no_weights'):
        TimmBackbone('resnet10t', checkpoint='no_weights.pth').init_weights()
