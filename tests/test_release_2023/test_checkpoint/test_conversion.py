from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from thinktwice.config.load import load_config
from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.conversion import (
    SPCONV_1,
    SPCONV_2,
    build_model,
    derived_entries,
    detect_layout,
    model_shapes,
    official_to_ours,
    ours_to_official,
    to_spconv1,
    to_spconv2,
)
from thinktwice.release_2023.checkpoint.names import DERIVED_ENTRIES, OFFICIAL_NAMES, official_entries

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
FIRST_KERNEL = 'lidar_encoder.pts_middle_encoder.conv_input.0.weight'


def shapes_of(name):
    return model_shapes(build_model(load_config(str(CONFIGS / name)), device='meta'))


@pytest.fixture(scope='module')
def reference_shapes():
    return shapes_of('thinktwice_reference.py')


@pytest.fixture
def official():
    """Every official entry, without the memory of its values."""
    return OrderedDict((name, torch.zeros(()).expand(shape)) for name, shape in official_entries().items())


def test_every_official_entry_is_used_or_explained_and_all_of_ours_filled(official, reference_shapes):
    conversion = official_to_ours(official, reference_shapes)
    assert conversion.is_complete, conversion.differences()
    assert list(conversion.weights) == list(reference_shapes)
    assert set(conversion.extra) == set(conversion.unused) == set(DERIVED_ENTRIES)
    assert len(official) == len(conversion.weights) + len(conversion.extra)


def test_names_are_one_to_one(reference_shapes):
    ours = [OFFICIAL_NAMES.to_ours(name) for name in official_entries() if name not in DERIVED_ENTRIES]
    assert len(set(ours)) == len(ours)
    assert set(ours) == set(reference_shapes)
    assert [OFFICIAL_NAMES.to_official(name) for name in ours] == [
        name for name in official_entries() if name not in DERIVED_ENTRIES
    ]


def test_main_config_has_a_place_for_all_but_the_uncalled_network(official):
    conversion = official_to_ours(official, shapes_of('thinktwice.py'))
    assert conversion.is_complete, conversion.differences()
    without_place = set(conversion.extra) - set(DERIVED_ENTRIES)
    assert len(without_place) == 20
    assert all('.look_feature_MLP.' in name for name in without_place)


@pytest.mark.parametrize('layout', [SPCONV_1, SPCONV_2])
def test_both_sparse_layouts_give_the_same_kernels(official, reference_shapes, layout):
    kernels = {name for name in official if official[name].dim() == 5}
    assert len(kernels) == 21
    for name in kernels:
        official[name] = torch.rand(official_entries()[name])
    stored = {name: to_spconv1(official[name]) for name in kernels} if layout == SPCONV_1 else {}
    conversion = official_to_ours({**official, **stored}, reference_shapes)
    assert conversion.layout == layout
    assert conversion.is_complete
    ours = conversion.weights[OFFICIAL_NAMES.to_ours(FIRST_KERNEL)]
    assert torch.equal(ours.permute(4, 0, 1, 2, 3), official[FIRST_KERNEL])


def test_exported_kernels_carry_the_version_that_keeps_the_official_loader_from_reordering(
    official, reference_shapes
):
    ours = official_to_ours(official, reference_shapes).weights
    back = ours_to_official(ours, reference_shapes)
    assert tuple(back.weights[FIRST_KERNEL].shape) == official_entries()[FIRST_KERNEL]
    assert back.weights._metadata[FIRST_KERNEL.removesuffix('.weight')] == {'version': 2}
    assert len(back.weights._metadata) == 21


def test_misfits_are_told_apart(official, reference_shapes):
    del official['output_fc.0.weight']
    official['conv_cam.0.weight'] = torch.zeros(256, 256, 1, 1)
    official['head.weight'] = torch.zeros(2)
    conversion = official_to_ours(official, reference_shapes)
    assert conversion.missing == {'flatten_head.vector_head.0.weight': (512, 1024)}
    assert conversion.misshapen == {'bev_fusion.camera_conv.0.weight': ((256, 256, 3, 3), (256, 256, 1, 1))}
    assert conversion.unexpected == {'head.weight': (2,)}
    table = conversion.differences()
    for line in ('missing: 1', 'unexpected: 1', 'misshapen: 1', 'expected [256, 256, 3, 3]'):
        assert line in table


def test_absent_batch_counters_start_from_zero(official, reference_shapes):
    counters = [name for name in official if name.endswith('num_batches_tracked')]
    for name in counters:
        del official[name]
    conversion = official_to_ours(official, reference_shapes)
    assert conversion.is_complete
    assert len(conversion.filled_in) == len(counters) == 124
    filled = conversion.weights[conversion.filled_in[0]]
    assert filled.dtype == torch.int64
    assert filled.item() == 0


def test_misfits_of_our_side_are_reported_too(official, reference_shapes):
    ours = official_to_ours(official, reference_shapes).weights
    del ours['measurement_encoder.layers.0.weight']
    ours['something.else'] = torch.zeros(1)
    conversion = ours_to_official(ours, reference_shapes)
    assert list(conversion.missing) == ['measurement_encoder.layers.0.weight']
    assert list(conversion.unexpected) == ['something.else']


def test_entries_that_the_config_determines_are_made_for_the_official_format():
    config = load_config(str(CONFIGS / 'thinktwice_reference.py'), {'image_size': [128, 256]})
    derived = derived_entries(config)
    assert {name: tuple(value.shape) for name, value in derived.items()} == {
        name: official_entries()[name] for name in DERIVED_ENTRIES
    }
    assert derived['img_encoder.voxel_num'].tolist() == [21, 21, 1]
    assert derived['img_encoder.voxel_num'].dtype == torch.int64
    first, last = derived['img_encoder.frustum'][0, 0, 0], derived['img_encoder.frustum'][-1, -1, -1]
    assert first.tolist() == [0, 0, 1, 1]
    assert last.tolist() == [255, 127, 40.5, 1]
    centers = derived['img_encoder.voxel_coord'] - derived['img_encoder.voxel_size'] / 2
    assert torch.allclose(centers, torch.tensor([-8.0, -19.2, -4.0]), atol=1e-5)
    assert derived_entries(load_config(str(CONFIGS / 'thinktwice.py'))) == {}


def test_each_axis_of_a_kernel_goes_where_its_name_says():
    kernel = torch.rand(2, 3, 4, 5, 6)  # kz, ky, kx, in, out
    second = to_spconv2(kernel)
    assert second.shape == (6, 2, 3, 4, 5)
    assert second[5, 1, 2, 3, 4] == kernel[1, 2, 3, 4, 5]
    assert torch.equal(to_spconv1(second), kernel)


OFFICIAL, OURS = 'lidar_encoder.pts_middle_encoder', 'lidar_encoder.middle_encoder'


def kernels(version=None, **shapes):
    """Official weights of the given shapes, with the metadata of a state dict."""
    weights = OrderedDict((f'{OFFICIAL}.{name}.weight', torch.zeros(shape)) for name, shape in shapes.items())
    if version is not None:
        weights._metadata = {f'{OFFICIAL}.{name}': {'version': version} for name in shapes}
    return weights


@pytest.mark.parametrize(('layout', 'shape'), [(SPCONV_2, (16, 3, 3, 3, 5)), (SPCONV_1, (3, 3, 3, 5, 16))])
def test_shape_decides_even_against_the_metadata(layout, shape):
    for version in (None, 1, 2):
        weights = kernels(version, conv=shape)
        assert detect_layout(weights, {f'{OURS}.conv.weight': (3, 3, 3, 5, 16)}) == layout


@pytest.mark.parametrize(('version', 'layout'), [(2, SPCONV_2), (1, SPCONV_1), (None, SPCONV_1)])
def test_metadata_decides_where_shapes_cannot(version, layout):
    weights = kernels(version, conv=(3, 3, 3, 3, 3))
    assert detect_layout(weights, {f'{OURS}.conv.weight': (3, 3, 3, 3, 3)}) == layout


def test_mixed_layouts_are_refused():
    weights = kernels(a=(16, 3, 3, 3, 5), b=(3, 3, 3, 5, 16))
    wanted = {f'{OURS}.{name}.weight': (3, 3, 3, 5, 16) for name in 'ab'}
    with pytest.raises(CheckpointError, match='mix two layouts'):
        detect_layout(weights, wanted)
