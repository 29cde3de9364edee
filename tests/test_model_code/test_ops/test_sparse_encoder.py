"""mmdet3d's SparseEncoder, unmodified, against dense convolutions with masks."""

import pytest
import torch
from torch import nn

import thinktwice.model_code  # noqa: F401  (puts the portable operators into place)

pytestmark = pytest.mark.slow

SHAPE = (41, 24, 32)


def build_encoder() -> nn.Module:
    from mmdet3d.registry import MODELS

    return MODELS.build(
        {
            'type': 'SparseEncoder',
            'in_channels': 5,
            'base_channels': 4,
            'sparse_shape': list(SHAPE),
            'output_channels': 12,
            'order': ('conv', 'norm', 'act'),
            'encoder_channels': ((4, 4, 6), (6, 6, 8), (8, 8, 10), (10, 10)),
            'encoder_paddings': ((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
            'block_type': 'basicblock',
        }
    )


class DenseEmulation:
    """Runs the same modules on dense maps (B, C, Z, Y, X) with a mask (B, 1, Z, Y, X) of active sites."""

    def conv(
        self, layer: nn.Module, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weight = layer.weight.permute(4, 3, 0, 1, 2)
        if layer.subm:
            padding = [size // 2 for size in layer.kernel_size]
            return nn.functional.conv3d(x, weight, padding=padding) * mask, mask
        ones = torch.ones(1, 1, *layer.kernel_size)
        geometry = {'stride': tuple(layer.stride), 'padding': tuple(layer.padding)}
        reached = (nn.functional.conv3d(mask, ones, **geometry) > 0).float()
        return nn.functional.conv3d(x, weight, **geometry), reached

    def norm(self, layer: nn.Module, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        active = mask[:, 0].bool()
        output = torch.zeros_like(x.movedim(1, -1))
        output[active] = layer(x.movedim(1, -1)[active])
        return output.movedim(-1, 1)

    def run(
        self, module: nn.Module, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        name = type(module).__name__
        if name == 'SparseBasicBlock':
            hidden, _ = self.conv(module.conv1, x, mask)
            hidden = self.norm(module.norm1, hidden, mask).relu()
            hidden, _ = self.conv(module.conv2, hidden, mask)
            return (self.norm(module.norm2, hidden, mask) + x).relu() * mask, mask
        if name == 'SparseSequential':
            for child in module.children():
                x, mask = self.run(child, x, mask)
            return x, mask
        if name == 'BatchNorm1d':
            return self.norm(module, x, mask), mask
        if name == 'ReLU':
            return x.relu(), mask
        return self.conv(module, x, mask)


@pytest.mark.parametrize('training', [True, False])
def test_forward_and_all_gradients_equal_dense_computation(training: bool) -> None:
    encoder = build_encoder().train(training)
    B = 2
    volume = B * SHAPE[0] * SHAPE[1] * SHAPE[2]
    cells = torch.randperm(volume)[:700]
    sites = torch.stack(torch.unravel_index(cells, (B, *SHAPE)), 1).int()
    features = torch.randn(len(sites), 5, requires_grad=True)
    output = encoder(features, sites, B)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    actual = [features.grad.clone(), *(parameter.grad.clone() for parameter in encoder.parameters())]

    encoder.zero_grad()
    leaf = features.detach().clone().requires_grad_()
    b, z, y, x = sites.long().unbind(1)
    dense = torch.zeros(B, *SHAPE, 5).index_put((b, z, y, x), leaf).movedim(-1, 1)
    mask = torch.zeros(B, 1, *SHAPE)
    mask[b, 0, z, y, x] = 1
    emulation = DenseEmulation()
    for part in (encoder.conv_input, encoder.encoder_layers, encoder.conv_out):
        dense, mask = emulation.run(part, dense, mask)
    reference = dense.flatten(1, 2)  # channel * 2 + depth
    assert output.shape == reference.shape == (B, 24, 3, 4)
    torch.testing.assert_close(output, reference, atol=1e-5, rtol=1e-4)
    reference.backward(gradient)
    expected = [leaf.grad, *(parameter.grad for parameter in encoder.parameters())]
    for one, other in zip(actual, expected, strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) <= 2e-5 * max(scale, 1e-3)
