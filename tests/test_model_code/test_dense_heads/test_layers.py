import pytest
import torch
from torch import nn

from thinktwice.model_code.dense_heads.layers import conv_with_broadcast, mlp


@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'), [(3, 1, 1), (3, 2, 0), (1, 1, 0), ((3, 5), 1, (1, 2))]
)
def test_broadcast_convolution_equals_the_convolution_of_everything(kernel, stride, padding) -> None:
    conv = nn.Conv2d(3 + 4, 5, kernel, stride, padding).double()
    spatial, constant = torch.randn(2, 3, 6, 7).double(), torch.randn(2, 4).double()
    joint = torch.cat([spatial, constant[:, :, None, None].expand(-1, -1, 6, 7)], dim=1)
    torch.testing.assert_close(conv_with_broadcast(conv, spatial, constant), conv(joint))


def test_broadcast_convolution_takes_a_map_that_is_the_same_in_all_passes() -> None:
    conv = nn.Conv2d(3 + 4, 5, 3, padding=1).double()
    spatial, constant = torch.randn(2, 3, 6, 7).double(), torch.randn(4, 4).double()
    joint = torch.cat([torch.cat([spatial] * 2), constant[:, :, None, None].expand(-1, -1, 6, 7)], dim=1)
    torch.testing.assert_close(conv_with_broadcast(conv, spatial, constant), conv(joint))


def test_broadcast_convolution_has_the_right_gradients() -> None:
    conv = nn.Conv2d(2 + 3, 2, 3, padding=1).double()
    inputs = [
        torch.randn(1, 2, 3, 3).double(),
        torch.randn(1, 3).double(),
        conv.weight.detach(),
        conv.bias.detach(),
    ]

    def run(spatial, constant, weight, bias):
        return torch.func.functional_call(
            _Wrapped(conv), {'conv.weight': weight, 'conv.bias': bias}, (spatial, constant)
        )

    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in inputs])


class _Wrapped(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, spatial, constant):
        return conv_with_broadcast(self.conv, spatial, constant)


def test_mlp_has_an_activation_between_layers_and_at_the_end_on_request() -> None:
    kinds = [type(layer) for layer in mlp(2, 3, 4)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in mlp(2, 3, final_activation=True)] == [nn.Linear, nn.ReLU]
