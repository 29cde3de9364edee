"""The operators of sparse 3D convolution of ``mmcv.ops`` in plain PyTorch.

A sparse convolution is a list of pairs (input row, output row) for each tap of the kernel. The pairs
are found by looking up the row of each cell in a dense grid. The convolution gathers the input rows of all
pairs, multiplies them by the matrices of their taps and sums the products of each output row in a fixed
order, so that results do not depend on the number of threads. Large ones take one block of output rows
after the other. Signatures are those of mmcv's compiled extension.

Sizes: N input rows, M output rows, taps of the kernel, P pairs in total. Coordinates are
(batch, z, y, x).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

# Attributes in which results are cached on the tensor that they were computed from. They share its
# lifetime and hold no reference to it.
_PAIRS = '_thinktwice_pairs'
_PLAN = '_thinktwice_plan'


# On the CPU the features of so many pairs fit into the cache. To split fewer than four times as many pairs
# takes longer than it saves.
_BLOCK_PAIRS = 2**16


class Block(NamedTuple):
    """The pairs of some output rows, sorted by tap, and the order in which they are summed by row.

    Attributes:
        rows: The output rows.
        sources: Input row of each pair.
        targets: Output row of each pair, relative to the first of the block.
        counts: Number of pairs of each tap.
        order: Pairs sorted by output row.
        starts: Start of each output row in this order.
    """

    rows: slice
    sources: Int[Tensor, ' P']
    targets: Int[Tensor, ' P']
    counts: list[int]
    order: Int64[Tensor, ' P']
    starts: Int64[Tensor, ' rows']


class GatherPlan(NamedTuple):
    """The pairs of a convolution by blocks of output rows, and of its transpose by blocks of input rows."""

    forward: list[Block]
    transposed: list[Block]


def get_indice_pairs_3d_forward(
    indices: Int32[Tensor, 'N 4'],
    batch_size: int,
    out_shape: Sequence[int],
    spatial_shape: Sequence[int],
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int],
    subm: int,
    transpose: int,
) -> tuple[Int32[Tensor, 'M 4'], Int32[Tensor, 'taps 2 N'], Int64[Tensor, ' taps']]:
    """Find the pairs of input and output rows of each tap.

    Rows outside the grid belong to no pair.

    Args:
        indices: Batch, z, y, x of each input row; rows are distinct.
        batch_size: Number of samples.
        out_shape: Size of the output grid in z, y, x.
        spatial_shape: Size of the input grid in z, y, x.
        ksize: Kernel size in z, y, x.
        stride: Stride in z, y, x.
        padding: Padding in z, y, x.
        dilation: Dilation in z, y, x.
        out_padding: Unused, part of mmcv's signature.
        subm: 1 for a submanifold convolution, whose output rows are the input rows.
        transpose: 1 for a transposed convolution, which is not supported.

    Returns:
        Batch, z, y, x of each output row; the pairs of each tap, padded with -1; the number of pairs
        of each tap, on the CPU, where the loop over taps runs.

    Raises:
        NotImplementedError: For a transposed convolution.
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
    features: Float[Tensor, 'N Cin'],
    filters: Float[Tensor, 'kz ky kx Cin Cout'],
    indice_pairs: Int32[Tensor, 'taps 2 _'],
    indice_pair_num: Int64[Tensor, ' taps'],
    num_activate_out: int,
    inverse: int = 0,
    subm: int = 0,
) -> Float[Tensor, '{num_activate_out} Cout']:
    """Apply a sparse convolution.

    Args:
        features: Features of the input rows.
        filters: Weight of the convolution.
        indice_pairs: See :func:`get_indice_pairs_3d_forward`.
        indice_pair_num: Number of pairs of each tap.
        num_activate_out: Number of output rows.
        inverse: 1 to swap inputs and outputs of the pairs.
        subm: Unused, part of mmcv's signature.
    """
    weight = filters.flatten(0, -3)
    rows = (features.shape[0], int(num_activate_out))
    plan = _gather_plan(indice_pairs, indice_pair_num, rows, bool(inverse))
    out = features.new_empty(rows[1], weight.shape[2])
    for block in plan.forward:
        products = _multiply_by_tap(features.index_select(0, block.sources), weight, block.counts)
        out[block.rows] = _sum_by_row(products, block.order, block.starts)
    return out


def indice_conv_backward(
    features: Float[Tensor, 'N Cin'],
    filters: Float[Tensor, 'kz ky kx Cin Cout'],
    out_bp: Float[Tensor, 'M Cout'],
    indice_pairs: Int32[Tensor, 'taps 2 _'],
    indice_pair_num: Int64[Tensor, ' taps'],
    inverse: int = 0,
    subm: int = 0,
) -> tuple[Float[Tensor, 'N Cin'], Float[Tensor, 'kz ky kx Cin Cout']]:
    """Gradients of :func:`indice_conv_forward`.

    Args:
        features: Features of the input rows.
        filters: Weight of the convolution.
        out_bp: Gradient of the output.
        indice_pairs: As in the forward pass.
        indice_pair_num: As in the forward pass.
        inverse: As in the forward pass.
        subm: Unused, part of mmcv's signature.

    Returns:
        Gradients of features and filters.
    """
    weight = filters.flatten(0, -3)
    rows = (features.shape[0], out_bp.shape[0])
    plan = _gather_plan(indice_pairs, indice_pair_num, rows, bool(inverse))
    grad_features, grad_weight = torch.empty_like(features), torch.zeros_like(weight)
    for block in plan.transposed:
        gathered = out_bp.index_select(0, block.sources)
        products = _multiply_by_tap(gathered, weight.transpose(1, 2), block.counts)
        grad_features[block.rows] = _sum_by_row(products, block.order, block.starts)

        inputs = features[block.rows].index_select(0, block.targets).split(block.counts)
        for tap, gradient in enumerate(gathered.split(block.counts)):
            grad_weight[tap].addmm_(inputs[tap].t(), gradient)
    return grad_features, grad_weight.view_as(filters)


def _multiply_by_tap(
    rows: Float[Tensor, 'P Cin'], weight: Float[Tensor, 'taps Cin Cout'], counts: list[int]
) -> Float[Tensor, 'P Cout']:
    """Multiply rows, sorted by tap, by the matrices of their taps."""
    products = rows.new_empty(rows.shape[0], weight.shape[2])
    for tap, (block, product) in enumerate(zip(rows.split(counts), products.split(counts), strict=True)):
        torch.mm(block, weight[tap], out=product)
    return products


def _sum_by_row(
    values: Float[Tensor, 'P C'], order: Int64[Tensor, ' P'], starts: Int64[Tensor, ' rows']
) -> Float[Tensor, 'rows C']:
    """Sum values over the segments of ``order`` that begin at ``starts``."""
    if order.numel() == 0:
        return values.new_zeros(starts.numel(), values.shape[1])
    return F.embedding_bag(order, values, starts, mode='sum')


def _gather_plan(
    pairs: Int32[Tensor, 'taps 2 _'], num: Int64[Tensor, ' taps'], rows: tuple[int, int], inverse: bool
) -> GatherPlan:
    """Compute the plan of ``pairs``, cached for all convolutions that share them."""
    plan = getattr(pairs, _PLAN, None)
    if plan is None:
        counts = num.tolist()
        sources, targets = (
            torch.cat([row[:count] for row, count in zip(side, counts, strict=True)])
            for side in pairs.unbind(1)
        )
        sizes = rows[::-1] if inverse else rows
        plan = GatherPlan(
            _blocks(sources, targets, counts, sizes[1]), _blocks(targets, sources, counts, sizes[0])
        )
        setattr(pairs, _PLAN, plan)
    return GatherPlan(plan.transposed, plan.forward) if inverse else plan


def _blocks(
    sources: Int[Tensor, ' P'], targets: Int[Tensor, ' P'], counts: list[int], num_rows: int
) -> list[Block]:
    """Split pairs, sorted by tap, into blocks of output rows: one block for few pairs, and on a GPU."""
    num_blocks = len(targets) // _BLOCK_PAIRS if targets.device.type == 'cpu' else 1
    size = max(math.ceil(num_rows / num_blocks) if num_blocks >= 4 else num_rows, 1)
    starts = range(0, num_rows, size)
    counts_of = [counts]
    if len(starts) > 1:
        taps = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        key = targets // size * len(counts) + taps
        order = key.sort(stable=True).indices
        sources, targets = sources[order], targets[order]
        counts_of = key.bincount(minlength=len(starts) * len(counts)).view(len(starts), -1).tolist()
    blocks, first = [], 0
    for start, block_counts in zip(starts, counts_of, strict=False):
        rows = slice(start, min(start + size, num_rows))
        pairs = slice(first, first + sum(block_counts))
        local = targets[pairs] - start
        order_and_starts = _segments(local, rows.stop - rows.start)
        blocks.append(Block(rows, sources[pairs], local, block_counts, *order_and_starts))
        first = pairs.stop
    return blocks


def _segments(rows: Int[Tensor, ' P'], size: int) -> tuple[Int64[Tensor, ' P'], Int64[Tensor, ' {size}']]:
    """Return the order that sorts ``rows``, and the start of each row in it."""
    ordered, order = rows.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(size, device=rows.device, dtype=rows.dtype))
    return order, starts


def _inside(
    batch: Int64[Tensor, '*#sites'],
    position: Sequence[Int64[Tensor, '*#sites']],
    batch_size: int,
    shape: Sequence[int],
) -> Bool[Tensor, '*_']:
    """Whether cells, given by batch and z, y, x, lie in the grid."""
    inside = (batch >= 0) & (batch < batch_size)
    for coordinate, size in zip(position, shape, strict=True):
        inside = inside & (coordinate >= 0) & (coordinate < size)
    return inside


def _flat_index(
    batch: Int64[Tensor, '*#sites'], position: Sequence[Int64[Tensor, '*#sites']], shape: Sequence[int]
) -> Int64[Tensor, '*_']:
    """Number the cells of a grid by batch, z, y, x."""
    index = batch
    for coordinate, size in zip(position, shape, strict=True):
        index = index * size + coordinate
    return index


def _over_taps(values: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Let values of the taps along z, y and x broadcast to all taps of the kernel."""
    z, y, x = values
    return z[:, None, None], y[:, None], x


def _submanifold_pairs(
    indices: Int32[Tensor, 'N 4'],
    batch_size: int,
    shape: Sequence[int],
    ksize: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Int32[Tensor, 'taps 2 N'], Int64[Tensor, ' taps']]:
    """Pairs of a submanifold convolution.

    The grid has a margin of the reach of the kernel, so that in the numbering of its cells a tap is at
    the same distance from every cell.
    """
    device = indices.device
    batch, *position = indices.long().unbind(1)
    active = _inside(batch, position, batch_size, shape)
    margins = [taps // 2 * step for taps, step in zip(ksize, dilation, strict=True)]
    padded = [size + 2 * margin for size, margin in zip(shape, margins, strict=True)]
    position = [
        coordinate.clamp(0, size - 1) + margin
        for coordinate, size, margin in zip(position, shape, margins, strict=True)
    ]
    cell = _flat_index(batch.clamp(0, batch_size - 1), position, padded)
    strides = (padded[1] * padded[2], padded[2], 1)
    z, y, x = _over_taps(
        [
            (taps // 2 - torch.arange(taps, device=device)) * (step * stride)
            for taps, step, stride in zip(ksize, dilation, strides, strict=True)
        ]
    )
    num_cells = batch_size * math.prod(padded)
    rows = torch.full((num_cells + 1,), -1, dtype=torch.int32, device=device)
    # an additional cell collects the rows outside the grid
    rows[torch.where(active, cell, num_cells)] = torch.arange(len(cell), dtype=torch.int32, device=device)
    target = rows[cell + (z + y + x).view(-1, 1)]  # (taps, N), -1 for an empty cell
    return _pack_pairs((target >= 0) & active, target)


def _strided_pairs(
    indices: Int32[Tensor, 'N 4'],
    batch_size: int,
    out_shape: Sequence[int],
    shape: Sequence[int],
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Int32[Tensor, 'M 4'], Int32[Tensor, 'taps 2 N'], Int64[Tensor, ' taps']]:
    """Output rows (every cell that an active input reaches) and pairs of a regular convolution."""
    device = indices.device
    batch, *position = indices.long().unbind(1)
    targets, usable = [], []  # (taps, N) each, along one axis
    for axis in range(3):
        taps = torch.arange(ksize[axis], device=device).unsqueeze(1)
        reached = position[axis] + padding[axis] - taps * dilation[axis]
        target = reached.div(stride[axis], rounding_mode='floor')
        targets.append(target)
        in_range = (target >= 0) & (target < out_shape[axis])
        usable.append(in_range & (target * stride[axis] == reached))
    cell = _flat_index(batch, _over_taps(targets), out_shape).flatten(0, 2)  # (taps, N)
    z, y, x = _over_taps(usable)
    reaches = (z & y & x & _inside(batch, position, batch_size, shape)).flatten(0, 2)

    num_cells = batch_size * math.prod(out_shape)
    # an additional cell collects what reaches no output
    cell = torch.where(reaches, cell, num_cells)
    occupied = torch.zeros(num_cells + 1, dtype=torch.bool, device=indices.device)
    occupied.index_fill_(0, cell.flatten(), True)
    sites = occupied[:num_cells].nonzero().squeeze(1)
    rows = torch.zeros(num_cells + 1, dtype=torch.int32, device=indices.device)
    rows[sites] = torch.arange(len(sites), dtype=torch.int32, device=indices.device)
    rest, x = sites // out_shape[2], sites % out_shape[2]
    rest, y = rest // out_shape[1], rest % out_shape[1]
    batch, z = rest // out_shape[0], rest % out_shape[0]
    out_indices = torch.stack([batch, z, y, x], dim=1).to(indices.dtype)
    return out_indices, *_pack_pairs(reaches, rows[cell])


def _pack_pairs(
    used: Bool[Tensor, 'taps N'], target: Int32[Tensor, 'taps N']
) -> tuple[Int32[Tensor, 'taps 2 N'], Int64[Tensor, ' taps']]:
    """Store the used targets of each tap with their input rows in one tensor padded with -1; count them."""
    tap, source = used.nonzero(as_tuple=True)
    num = used.sum(1)
    column = torch.arange(len(tap), device=tap.device) - (num.cumsum(0) - num)[tap]
    pairs = torch.full((len(used), 2, used.shape[1]), -1, dtype=torch.int32, device=tap.device)
    pairs[tap, 0, column] = source.int()
    pairs[tap, 1, column] = target[tap, source]
    return pairs, num.cpu()
