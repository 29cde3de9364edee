import pytest
import torch

from thinktwice.errors import CheckpointError
from thinktwice.release_2023.checkpoint.layouts import (
    SPCONV_1,
    SPCONV_2,
    detect_layout,
    to_spconv1,
    to_spconv2,
)


def test_each_axis_goes_where_its_name_says():
    kernel = torch.rand(2, 3, 4, 5, 6)  # kz, ky, kx, in, out
    second = to_spconv2(kernel)
    assert second.shape == (6, 2, 3, 4, 5)
    assert second[5, 1, 2, 3, 4] == kernel[1, 2, 3, 4, 5]
    assert torch.equal(to_spconv1(second), kernel)


@pytest.mark.parametrize(('layout', 'shape'), [(SPCONV_2, (16, 3, 3, 3, 5)), (SPCONV_1, (3, 3, 3, 5, 16))])
def test_shape_decides_even_against_the_metadata(layout, shape):
    kernels = {'conv': torch.zeros(shape)}
    for version in (None, 1, 2):
        assert detect_layout(kernels, {'conv': (16, 3, 3, 3, 5)}, {'conv': version}) == layout


@pytest.mark.parametrize(('version', 'layout'), [(2, SPCONV_2), (1, SPCONV_1), (None, SPCONV_1)])
def test_metadata_decides_where_shapes_cannot(version, layout):
    kernels = {'conv': torch.zeros(3, 3, 3, 3, 3)}
    assert detect_layout(kernels, {'conv': (3, 3, 3, 3, 3)}, {'conv': version}) == layout


def test_mixed_layouts_are_refused():
    kernels = {'a': torch.zeros(16, 3, 3, 3, 5), 'b': torch.zeros(3, 3, 3, 5, 16)}
    shapes = dict.fromkeys(kernels, (16, 3, 3, 3, 5))
    with pytest.raises(CheckpointError, match='mix two layouts'):
        detect_layout(kernels, shapes, {})
