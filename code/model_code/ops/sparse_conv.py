"""Sparse 3-D convolution behind the classes of ``mmcv.ops``, in plain torch.

A sparse convolution is a list of pairs (input row, output row) for each tap of
the kernel. The pairs are found with sorted keys. The convolution gathers the
input rows of all pairs, multiplies the rows of each tap by the tap's matrix and
sums the products of each output row in a fixed order, so results do not depend
on the number of threads. Signatures are those of mmcv's compiled extension.

Sizes: N input rows, M output rows, K taps, P pairs in all. Coordinates are
(batch, z, y, x).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Attribute names under which results are kept on the tensor that they were computed from. They live
# and die with it, and hold no reference back to it.
_PAIRS = '_thinktwice_pairs'
_PLAN = '_thinktwice_plan'


class GatherPlan(NamedTuple):
    """The pairs of a convolution, sorted by tap, and how to sum them by row.

    Attributes:
        sources: (P,) input row of each pair.
        targets: (P,) output row of each pair.
        counts: pairs of each tap.
        by_target: pairs sorted by output row, and (M,) where each output row starts among them.
        by_source: pairs sorted by input row, and (N,) where each input row starts among them.
    """

    sources: Tensor
    targets: Tensor
    counts: list[int]
    by_target: tuple[Tensor, Tensor]
    by_source: tuple[Tensor, Tensor]


def get_indice_pairs_3d_forward(
    indices: Tensor,
    batch_size: int,
    out_shape: list[int],
    spatial_shape: list[int],
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    out_padding: list[int],
    subm: int,
    transpose: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find which input row meets which output row at which tap.

    A row outside the grid is no site: it takes part in no pair.

    Args:
        indices: (N, 4) int32 batch, z, y, x; rows are distinct.
        batch_size: samples.
        out_shape: cells of the output grid in z, y, x.
        spatial_shape: cells of the input grid in z, y, x.
        ksize: taps in z, y, x.
        stride: cells.
        padding: cells.
        dilation: cells between taps.
        out_padding: unused, for the compiled signature.
        subm: 1 if the output sites are the input sites.
        transpose: 1 for a transposed convolution, which is not supported.

    Returns:
        (M, 4) int32 output sites; (K, 2, N) int32 rows of the pairs of each tap, -1 behind the
        last; (K,) int64 number of pairs of each tap, on the CPU where the loop over taps runs.

    Raises:
        NotImplementedError: for a transposed convolution.
    """
    if transpose:
        raise NotImplementedError('transposed sparse convolution needs the compiled mmcv')
    key = (indices._version if not indices.is_inference() else 0, batch_size, *out_shape, *spatial_shape)
    key += (*ksize, *stride, *padding, *dilation, subm)
    cache = getattr(indices, _PAIRS, None)
    if cache is None:
        cache = {}
        setattr(indices, _PAIRS, cache)
    if key not in cache:
        if subm:
            cache[key] = (None, *_submanifold_pairs(indices, batch_size, spatial_shape, ksize, dilation))
        else:
            cache[key] = _strided_pairs(
                indices, batch_size, out_shape, spatial_shape, ksize, stride, padding, dilation
            )
    sites, pairs, num = cache[key]
    return (indices if sites is None else sites), pairs, num


def indice_conv_forward(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    inverse: int = 0,
    subm: int = 0,
) -> Tensor:
    """Convolve.

    Args:
        features: (N, Cin).
        filters: (kz, ky, kx, Cin, Cout).
        indice_pairs: (K, 2, N) from :func:`get_indice_pairs_3d_forward`.
        indice_pair_num: (K,).
        num_activate_out: M.
        inverse: 1 to swap inputs and outputs of the pairs.
        subm: 1 if output sites are input sites; needs no care here.

    Returns:
        (M, Cout).
    """
    weight = filters.flatten(0, -3)
    rows = (features.shape[0], int(num_activate_out))
    plan = _gather_plan(indice_pairs, indice_pair_num, rows, bool(inverse))
    products = _multiply_by_tap(features.index_select(0, plan.sources), weight, plan.counts)
    return _sum_by_row(products, *plan.by_target)


def indice_conv_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    inverse: int = 0,
    subm: int = 0,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`indice_conv_forward`.

    Args:
        features: (N, Cin).
        filters: (kz, ky, kx, Cin, Cout).
        out_bp: (M, Cout) gradient of the output.
        indice_pairs: (K, 2, N).
        indice_pair_num: (K,).
        inverse: as in the forward call.
        subm: as in the forward call.

    Returns:
        Gradient of the features (N, Cin) and of the filters (kz, ky, kx, Cin, Cout).
    """
    weight = filters.flatten(0, -3)
    rows = (features.shape[0], out_bp.shape[0])
    plan = _gather_plan(indice_pairs, indice_pair_num, rows, bool(inverse))
    gathered = out_bp.index_select(0, plan.targets)
    products = _multiply_by_tap(gathered, weight.transpose(1, 2), plan.counts)
    grad_features = _sum_by_row(products, *plan.by_source)

    inputs = features.index_select(0, plan.sources).split(plan.counts)
    grad_weight = torch.empty_like(weight)
    for tap, gradient in enumerate(gathered.split(plan.counts)):
        torch.mm(inputs[tap].t(), gradient, out=grad_weight[tap])
    return grad_features, grad_weight.view_as(filters)


def _multiply_by_tap(rows: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    """Multiply (P, Cin) rows, sorted by tap, by the (K, Cin, Cout) matrix of their tap: (P, Cout)."""
    products = rows.new_empty(rows.shape[0], weight.shape[2])
    for tap, (block, product) in enumerate(zip(rows.split(counts), products.split(counts), strict=True)):
        torch.mm(block, weight[tap], out=product)
    return products


def _sum_by_row(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum (P, C) values over the segments of ``order`` that begin at ``starts``: (rows, C)."""
    if order.numel() == 0:
        return values.new_zeros(starts.numel(), values.shape[1])
    return F.embedding_bag(order, values, starts, mode='sum')


def _gather_plan(pairs: Tensor, num: Tensor, rows: tuple[int, int], inverse: bool) -> GatherPlan:
    """Return the plan of ``pairs``, computed once for all convolutions that share them."""
    plan = getattr(pairs, _PLAN, None)
    if plan is None:
        filled = torch.arange(pairs.shape[2], device=pairs.device) < num.to(pairs.device).unsqueeze(1)
        sources, targets = pairs[:, 0][filled], pairs[:, 1][filled]
        sizes = rows[::-1] if inverse else rows
        plan = GatherPlan(
            sources, targets, num.tolist(), _segments(targets, sizes[1]), _segments(sources, sizes[0])
        )
        setattr(pairs, _PLAN, plan)
    if inverse:
        return GatherPlan(plan.targets, plan.sources, plan.counts, plan.by_source, plan.by_target)
    return plan


def _segments(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the order that sorts ``rows`` and (size,) where each row starts in it."""
    ordered, order = rows.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(size, device=rows.device, dtype=rows.dtype))
    return order, starts


def _keys(batch: Tensor, position: Tensor, shape: list[int]) -> Tensor:
    """Number the cells of a grid: (...) int64 from (...) batch and (..., 3) z, y, x."""
    z, y, x = position.unbind(-1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def _inside(batch: Tensor, position: Tensor, batch_size: int, shape: list[int]) -> Tensor:
    """Tell which cells lie in the grid: (...) bool."""
    limit = torch.tensor(shape, device=position.device)
    return ((position >= 0) & (position < limit)).all(-1) & (batch >= 0) & (batch < batch_size)


def _taps(ksize: list[int], device: torch.device) -> Tensor:
    """Return the (K, 3) z, y, x positions of the taps, x fastest."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in ksize))


def _submanifold_pairs(
    indices: Tensor, batch_size: int, shape: list[int], ksize: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor]:
    """Pairs of a convolution whose output sites are its input sites."""
    device = indices.device
    batch, position = indices[:, 0].long(), indices[:, 1:].long()
    active = _inside(batch, position, batch_size, shape)
    # an inactive row gets a key that no neighbor has
    keys = torch.where(active, _keys(batch, position, shape), -1)
    sorted_keys, order = keys.sort()

    center = torch.tensor([size // 2 for size in ksize], device=device)
    offsets = (center - _taps(ksize, device)) * torch.tensor(dilation, device=device)
    target = position + offsets.unsqueeze(1)
    usable = active & _inside(batch, target, batch_size, shape)
    target_keys = _keys(batch, target, shape)
    place = torch.searchsorted(sorted_keys, target_keys).clamp(max=max(len(keys) - 1, 0))
    usable &= sorted_keys[place] == target_keys
    tap, source = usable.nonzero(as_tuple=True)
    return _pack_pairs(tap, source, order[place[tap, source]], len(offsets), len(keys))


def _strided_pairs(
    indices: Tensor,
    batch_size: int,
    out_shape: list[int],
    shape: list[int],
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites (every cell that an active input reaches) and pairs of an ordinary convolution."""
    device = indices.device
    batch, position = indices[:, 0].long(), indices[:, 1:].long()
    taps = _taps(ksize, device) * torch.tensor(dilation, device=device)
    step = torch.tensor(stride, device=device)
    reached = position + torch.tensor(padding, device=device) - taps.unsqueeze(1)
    target = reached.div(step, rounding_mode='floor')
    usable = (target * step == reached).all(-1) & _inside(batch, target, batch_size, out_shape)
    usable &= _inside(batch, position, batch_size, shape)
    tap, source = usable.nonzero(as_tuple=True)
    keys = _keys(batch[source], target[tap, source], out_shape)
    sites, row = torch.unique(keys, return_inverse=True)
    cells = torch.stack(
        [
            sites.div(out_shape[0] * out_shape[1] * out_shape[2], rounding_mode='floor'),
            sites.div(out_shape[1] * out_shape[2], rounding_mode='floor') % out_shape[0],
            sites.div(out_shape[2], rounding_mode='floor') % out_shape[1],
            sites % out_shape[2],
        ],
        dim=1,
    )
    return cells.to(indices.dtype), *_pack_pairs(tap, source, row, len(taps), len(indices))


def _pack_pairs(tap: Tensor, source: Tensor, target: Tensor, taps: int, rows: int) -> tuple[Tensor, Tensor]:
    """Lay pairs, sorted by tap, into (taps, 2, rows) int32 padded with -1, and count them."""
    num = torch.bincount(tap, minlength=taps)
    column = torch.arange(len(tap), device=tap.device) - (num.cumsum(0) - num)[tap]
    pairs = torch.full((taps, 2, rows), -1, dtype=torch.int32, device=tap.device)
    pairs[tap, 0, column] = source.int()
    pairs[tap, 1, column] = target.int()
    return pairs, num.cpu()
