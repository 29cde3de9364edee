"""The two layouts of sparse 3-D convolution kernels, and how to tell them apart.

spconv 1.x, ``mmcv.ops`` and this framework store a kernel as ``[kz, ky, kx, in, out]``;
spconv 2.x, which the official checkpoint was written with, as ``[out, kz, ky, kx, in]``.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from thinktwice.errors import CheckpointError

SPCONV_1 = 'kz,ky,kx,in,out'
SPCONV_2 = 'out,kz,ky,kx,in'
#: Version that spconv 2.x writes into the metadata of a state dict, per module.
SPCONV_2_VERSION = 2


def to_spconv2(weight: Tensor) -> Tensor:
    """Reorder a kernel [kz,ky,kx,in,out] to [out,kz,ky,kx,in] (contiguous)."""
    return weight.permute(4, 0, 1, 2, 3).contiguous()


def to_spconv1(weight: Tensor) -> Tensor:
    """Reorder a kernel [out,kz,ky,kx,in] to [kz,ky,kx,in,out] (contiguous)."""
    return weight.permute(1, 2, 3, 4, 0).contiguous()


def spconv2_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a kernel in spconv 2 layout, from its shape in spconv 1 layout."""
    return (shape[4], *shape[:4])


def detect_layout(
    kernels: Mapping[str, Tensor],
    spconv2_shapes: Mapping[str, Sequence[int]],
    versions: Mapping[str, int | None],
) -> str:
    """Layout of the sparse kernels of a file.

    Shapes decide where they can: one kernel whose shape fits one layout only is
    enough. Where all kernels fit both (equal channels and kernel sizes), the
    version that spconv 2.x writes into the state dict's metadata decides; a file
    without it is from an older library.

    Args:
        kernels: Name to kernel.
        spconv2_shapes: Name to the expected shape in spconv 2 layout.
        versions: Name to the metadata version of its module, None if absent.

    Returns:
        ``SPCONV_1`` or ``SPCONV_2``.

    Raises:
        CheckpointError: Some kernels fit only one layout and others only the other.
    """
    fits: dict[str, list[str]] = {SPCONV_1: [], SPCONV_2: []}
    for name, kernel in kernels.items():
        if name not in spconv2_shapes or kernel.dim() != 5:
            continue
        wanted = tuple(spconv2_shapes[name])
        second = tuple(kernel.shape) == wanted
        first = spconv2_shape(kernel.shape) == wanted
        if first != second:
            fits[SPCONV_2 if second else SPCONV_1].append(name)
    if fits[SPCONV_1] and fits[SPCONV_2]:
        raise CheckpointError(
            'the sparse convolution kernels of this file mix two layouts: '
            f'{fits[SPCONV_1][0]} is stored as [{SPCONV_1}], {fits[SPCONV_2][0]} as [{SPCONV_2}]. '
            'Save the file again with one library'
        )
    if fits[SPCONV_1] or fits[SPCONV_2]:
        return SPCONV_1 if fits[SPCONV_1] else SPCONV_2
    is_second = any(versions.get(name) == SPCONV_2_VERSION for name in kernels)
    return SPCONV_2 if is_second else SPCONV_1
