import pytest
import torch
import torch.nn.functional as F

import thinktwice.model_code  # noqa: F401  (puts the portable operators into place)

mmcv_ops = pytest.importorskip('mmcv.ops')


def random_sites(batch_size: int, shape: tuple[int, int, int], count: int) -> torch.Tensor:
    """Distinct (batch, z, y, x) rows in random order."""
    cells = torch.randperm(batch_size * shape[0] * shape[1] * shape[2])[:count]
    x, y = cells % shape[2], cells // shape[2] % shape[1]
    z, b = cells // (shape[2] * shape[1]) % shape[0], cells // (shape[2] * shape[1] * shape[0])
    return torch.stack([b, z, y, x], 1).int()


def to_dense(features: torch.Tensor, sites: torch.Tensor, batch_size: int, shape: tuple[int, ...]):
    b, z, y, x = sites.long().unbind(1)
    dense = torch.zeros(batch_size, *shape, features.shape[1], dtype=features.dtype)
    return dense.index_put((b, z, y, x), features).permute(0, 4, 1, 2, 3)


def conv3d(dense: torch.Tensor, weight: torch.Tensor, **kwargs) -> torch.Tensor:
    return F.conv3d(dense, weight.permute(4, 3, 0, 1, 2), **kwargs)


SHAPE = (7, 12, 10)


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('count', [1, 40, 400])
def test_two_layers_equal_dense_convolution_forward_and_backward(batch_size: int, count: int) -> None:
    sites = random_sites(batch_size, SHAPE, count)
    features = torch.randn(len(sites), 4, requires_grad=True)
    first = mmcv_ops.SubMConv3d(4, 8, 3, padding=1, bias=False, indice_key='a')
    second = mmcv_ops.SparseConv3d(8, 6, 3, stride=2, padding=(0, 1, 1), bias=False)
    network = mmcv_ops.SparseSequential(first, second)
    output = network(mmcv_ops.SparseConvTensor(features, sites, SHAPE, batch_size)).dense()

    reference_features = features.detach().clone().requires_grad_()
    weights = [layer.weight.detach().clone().requires_grad_() for layer in (first, second)]
    mask = to_dense(torch.ones(len(sites), 1), sites, batch_size, SHAPE)
    dense = to_dense(reference_features, sites, batch_size, SHAPE)
    dense = conv3d(dense, weights[0], padding=1) * mask
    reference = conv3d(dense, weights[1], stride=2, padding=(0, 1, 1))
    torch.testing.assert_close(output, reference)

    gradient = torch.randn_like(output)
    output.backward(gradient)
    reference.backward(gradient)
    torch.testing.assert_close(features.grad, reference_features.grad)
    torch.testing.assert_close(first.weight.grad, weights[0].grad)
    torch.testing.assert_close(second.weight.grad, weights[1].grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('kernel_size', 'stride', 'padding', 'dilation'),
    [
        ((3, 1, 1), (2, 1, 1), 0, 1),
        (3, (1, 2, 2), 1, 1),
        ((1, 3, 3), 1, (0, 1, 1), 1),
        (2, 2, 0, 1),
        (3, 1, 2, 2),
    ],
)
def test_strided_convolution_equals_dense_and_has_its_sites(kernel_size, stride, padding, dilation) -> None:
    sites = random_sites(2, SHAPE, 60)
    features = torch.randn(len(sites), 3)
    geometry = {'stride': stride, 'padding': padding, 'dilation': dilation}
    layer = mmcv_ops.SparseConv3d(3, 5, kernel_size, **geometry, bias=False)
    output = layer(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 2))
    torch.testing.assert_close(
        output.dense(), conv3d(to_dense(features, sites, 2, SHAPE), layer.weight, **geometry)
    )
    mask = to_dense(torch.ones(len(sites), 1), sites, 2, SHAPE)
    reached = conv3d(mask, torch.ones(*layer.weight.shape[:3], 1, 1), **geometry)[:, 0] > 0
    assert set(map(tuple, output.indices.tolist())) == set(map(tuple, reached.nonzero().tolist()))
    assert len(output.indices) == int(reached.sum())


def test_submanifold_convolution_with_dilation_and_another_kernel_equals_dense() -> None:
    sites = random_sites(2, SHAPE, 200)
    features = torch.randn(len(sites), 3)
    layer = mmcv_ops.SubMConv3d(3, 5, (3, 5, 1), dilation=(1, 2, 1), bias=True)
    output = layer(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 2))
    mask = to_dense(torch.ones(len(sites), 1), sites, 2, SHAPE)
    dense = conv3d(to_dense(features, sites, 2, SHAPE), layer.weight, padding=(1, 4, 0), dilation=(1, 2, 1))
    reference = (dense + layer.bias.view(1, -1, 1, 1, 1)) * mask
    torch.testing.assert_close(output.dense(), reference)
    assert torch.equal(output.indices, sites)


def test_inverse_convolution_restores_the_sites_and_is_the_transpose() -> None:
    sites = random_sites(1, SHAPE, 50)
    features = torch.randn(len(sites), 3)
    down = mmcv_ops.SparseConv3d(3, 4, 3, stride=2, padding=1, bias=False, indice_key='d')
    up = mmcv_ops.SparseInverseConv3d(4, 3, 3, indice_key='d', bias=False)
    middle = down(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 1))
    output = up(middle)
    assert torch.equal(output.indices, sites)
    dense = middle.dense()
    weight = up.weight.permute(3, 4, 0, 1, 2)
    padding = [
        size - ((reduced - 1) * 2 - 2 + 3) for size, reduced in zip(SHAPE, dense.shape[2:], strict=True)
    ]
    full = F.conv_transpose3d(dense, weight, stride=2, padding=1, output_padding=padding)
    mask = to_dense(torch.ones(len(sites), 1), sites, 1, SHAPE)
    torch.testing.assert_close(output.dense(), full * mask)


def test_a_row_outside_the_grid_reaches_nobody() -> None:
    inside = random_sites(2, SHAPE, 150)
    # by the flat numbering of cells these lie in the next sample, the next row and before the first cell
    outside = torch.tensor(
        [[0, 7, 0, 0], [0, 8, 3, 3], [1, 2, 12, 1], [0, 1, 1, 10], [0, 0, 0, -1], [2, 0, 0, 0]]
    )
    features = torch.randn(len(inside), 3)
    layers = [
        mmcv_ops.SubMConv3d(3, 4, 3, bias=False),
        mmcv_ops.SparseConv3d(4, 4, 3, stride=2, padding=1, bias=False),
    ]
    network = mmcv_ops.SparseSequential(*layers)
    clean = network(mmcv_ops.SparseConvTensor(features, inside, SHAPE, 2))
    stray = torch.full((len(outside), 3), 100.0)
    sites = torch.cat([outside.int(), inside])
    dirty = network(mmcv_ops.SparseConvTensor(torch.cat([stray, features]), sites, SHAPE, 2))
    assert torch.equal(clean.indices, dirty.indices)
    torch.testing.assert_close(clean.features, dirty.features)


def test_a_sample_without_points_gives_zeros_and_leaves_the_others_alone() -> None:
    sites = random_sites(1, SHAPE, 60)
    features = torch.randn(len(sites), 3, requires_grad=True)
    network = mmcv_ops.SparseSequential(
        mmcv_ops.SubMConv3d(3, 4, 3, bias=False), mmcv_ops.SparseConv3d(4, 4, 3, 2, 1, bias=False)
    )
    alone = network(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 1)).dense()
    middle = sites + torch.tensor([1, 0, 0, 0], dtype=torch.int32)
    batch = network(mmcv_ops.SparseConvTensor(features, middle, SHAPE, 3)).dense()
    torch.testing.assert_close(batch[1], alone[0])
    assert not batch[0].any()
    assert not batch[2].any()


def test_no_point_at_all_gives_zeros_and_a_zero_gradient() -> None:
    features = torch.zeros(0, 3, requires_grad=True)
    network = mmcv_ops.SparseSequential(
        mmcv_ops.SubMConv3d(3, 4, 3, bias=False), mmcv_ops.SparseConv3d(4, 5, 3, 2, 1, bias=False)
    )
    sites = torch.zeros(0, 4, dtype=torch.int32)
    output = network(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 2)).dense()
    assert output.shape == (2, 5, 4, 6, 5)
    assert not output.any()
    output.sum().backward()
    assert features.grad is not None
    assert features.grad.shape == (0, 3)
    assert not network[0].weight.grad.any()


def test_one_and_two_threads_agree_to_the_last_bit() -> None:
    sites = random_sites(2, (20, 60, 60), 12000)
    features = torch.randn(len(sites), 16)
    network = mmcv_ops.SparseSequential(
        mmcv_ops.SubMConv3d(16, 16, 3, bias=False, indice_key='a'),
        mmcv_ops.SparseConv3d(16, 16, 3, 2, 1, bias=False),
    )
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        leaf = features.clone().requires_grad_()
        output = network(mmcv_ops.SparseConvTensor(leaf, sites.clone(), (20, 60, 60), 2)).dense()
        network.zero_grad()
        output.square().sum().backward()
        results.append((output.detach(), leaf.grad))
    for output, gradient in results[1:]:
        assert torch.equal(output, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])
    assert torch.equal(results[1][1], results[2][1])


def test_pairs_are_found_once_for_layers_on_the_same_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinktwice.model_code.ops import sparse_conv

    calls = []
    original = sparse_conv._submanifold_pairs
    monkeypatch.setattr(
        sparse_conv, '_submanifold_pairs', lambda *args: calls.append(args) or original(*args)
    )
    sites = random_sites(1, SHAPE, 50)
    network = mmcv_ops.SparseSequential(*(mmcv_ops.SubMConv3d(3, 3, 3, bias=False) for _ in range(3)))
    network(mmcv_ops.SparseConvTensor(torch.randn(50, 3), sites, SHAPE, 1))
    assert len(calls) == 1
    # sites changed in place are other sites
    sites[:, 3] = sites[:, 3].flip(0)
    network(mmcv_ops.SparseConvTensor(torch.randn(50, 3), sites, SHAPE, 1))
    assert len(calls) == 2


def test_blocks_of_rows_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinktwice.model_code.ops import sparse_conv

    sites, features = random_sites(2, SHAPE, 300), torch.randn(300, 4)
    layers = [
        mmcv_ops.SubMConv3d(4, 6, 3, bias=False),
        mmcv_ops.SparseConv3d(6, 5, 3, 2, 1, bias=False, indice_key='down'),
        mmcv_ops.SparseInverseConv3d(5, 3, 3, indice_key='down', bias=False),
    ]
    network = mmcv_ops.SparseSequential(*layers)
    results, blocks = [], []
    split = sparse_conv._blocks
    monkeypatch.setattr(sparse_conv, '_blocks', lambda *args: blocks.append(split(*args)) or blocks[-1])
    for pairs in (2**16, 100):
        monkeypatch.setattr(sparse_conv, '_BLOCK_PAIRS', pairs)
        leaf = features.clone().requires_grad_()
        output = network(mmcv_ops.SparseConvTensor(leaf, sites.clone(), SHAPE, 2)).features
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *network.parameters()])
        results.append([output, *gradients])
    assert [len(split) > 1 for split in blocks] == [False] * 4 + [True] * 4
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(many, one)


def test_inference_mode_works() -> None:
    layer = mmcv_ops.SubMConv3d(3, 4, 3, bias=False)
    sites = random_sites(1, SHAPE, 50)
    features = torch.randn(50, 3)
    expected = layer(mmcv_ops.SparseConvTensor(features, sites, SHAPE, 1)).features
    with torch.inference_mode():
        actual = layer(mmcv_ops.SparseConvTensor(features, sites.clone(), SHAPE, 1)).features
    torch.testing.assert_close(actual, expected)


def test_transposed_convolution_says_what_it_needs() -> None:
    layer = mmcv_ops.SparseConvTranspose3d(3, 4, 3, 2, 1, bias=False)
    with pytest.raises(NotImplementedError, match='transposed sparse convolution needs the compiled mmcv'):
        layer(mmcv_ops.SparseConvTensor(torch.randn(5, 3), random_sites(1, SHAPE, 5), SHAPE, 1))


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    sites = random_sites(2, SHAPE, 300)
    features = torch.randn(len(sites), 8)
    network = mmcv_ops.SparseSequential(
        mmcv_ops.SubMConv3d(8, 16, 3, bias=False), mmcv_ops.SparseConv3d(16, 8, 3, 2, 1, bias=False)
    )
    results = []
    for device in ('cpu', 'cuda'):
        network.to(device)
        leaf = features.to(device).detach().requires_grad_()
        output = network(mmcv_ops.SparseConvTensor(leaf, sites.to(device), SHAPE, 2)).dense()
        network.zero_grad()
        output.square().sum().backward()
        results.append([value.cpu() for value in (output, leaf.grad, network[0].weight.grad)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu, atol=1e-4, rtol=1e-4)
