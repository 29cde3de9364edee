import pytest
import torch
from jaxtyping import TypeCheckError

from thinktwice.model_code.ops import splat


def outer_product_splat(depth, features, cell_index, num_cells):
    """The usual way: every pixel's feature times every depth weight, added cell by cell."""
    B, N, C = features.shape[:3]
    output = features.new_zeros(B, C, num_cells)
    for b in range(B):
        frustum = depth[b].unsqueeze(1) * features[b].unsqueeze(2)  # (N, C, D, H, W)
        flat = frustum.permute(1, 0, 2, 3, 4).reshape(C, -1)
        cells = cell_index[b].reshape(-1)
        kept = cells >= 0
        output[b].index_add_(1, cells[kept], flat[:, kept])
    return output


def inputs(B=2, N=3, C=5, D=4, H=3, W=6, cells=11, dtype=torch.double):
    depth = torch.randn(B, N, D, H, W, dtype=dtype).softmax(2)
    features = torch.randn(B, N, C, H, W, dtype=dtype)
    return depth, features, torch.randint(-4, cells, (B, N, D, H, W)).clamp(min=-1), cells


@pytest.mark.parametrize('sizes', [{}, {'B': 1, 'N': 1}, {'N': 6, 'D': 1}, {'cells': 1}])
def test_equals_the_outer_product_forward_and_backward(sizes: dict) -> None:
    depth, features, cell_index, cells = inputs(**sizes)
    gradient = torch.randn(len(depth), features.shape[2], cells, dtype=torch.double)
    results = []
    for function in (splat, outer_product_splat):
        leaves = [depth.clone().requires_grad_(), features.clone().requires_grad_()]
        output = function(*leaves, cell_index, cells)
        output.backward(gradient)
        results.append([output, *(leaf.grad for leaf in leaves)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradients_equal_finite_differences() -> None:
    depth, features, cell_index, cells = inputs(B=1, N=2, C=2, D=2, H=2, W=2, cells=3)
    leaves = (depth.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda *args: splat(*args, cell_index, cells), leaves)


def test_what_falls_outside_is_dropped_and_gets_no_gradient() -> None:
    depth, features, cell_index, cells = inputs()
    cell_index[:, 1] = -1
    cell_index[0, 2] = cells + 3
    depth.requires_grad_()
    splat(depth, features, cell_index, cells).sum().backward()
    assert not depth.grad[:, 1].any()
    assert not depth.grad[0, 2].any()
    assert depth.grad[1, 2].any()


def test_a_sample_alone_equals_the_sample_in_a_batch() -> None:
    depth, features, cell_index, cells = inputs(B=3, dtype=torch.float)
    batch = splat(depth, features, cell_index, cells)
    alone = splat(depth[1:2], features[1:2], cell_index[1:2], cells)
    torch.testing.assert_close(batch[1:2], alone)


def test_shapes_that_do_not_fit_are_named() -> None:
    depth, features, cell_index, cells = inputs()
    with pytest.raises(TypeCheckError, match='cell_index'):
        splat(depth, features, cell_index[:, :2], cells)
    with pytest.raises(TypeCheckError, match='features'):
        splat(depth, features[..., :-1], cell_index, cells)


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    depth, features, cell_index, cells = inputs(dtype=torch.float)
    cpu = splat(depth, features, cell_index, cells)
    cuda = splat(depth.cuda(), features.cuda(), cell_index.cuda(), cells)
    torch.testing.assert_close(cuda.cpu(), cpu, atol=1e-4, rtol=1e-4)
