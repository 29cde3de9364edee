"""Lets mmdet and mmdet3d run without mmcv's compiled extension.

``mmcv-lite`` ships the Python half of ``mmcv.ops`` but not ``mmcv._ext``, so
importing any model of mmdet or mmdet3d fails. :func:`install_mmcv_extension`
puts a stand-in in its place: the functions that this project needs are given in
plain torch, every other one raises when it is called. Where the compiled
extension exists nothing is replaced.

:func:`guard_spconv` keeps mmdet3d from choosing spconv where spconv is wrong:
its CPU build has a data race and its numbers vary from run to run.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from . import deform_attention, deform_conv, sparse_conv, voxelize

EXTENSION = 'mmcv._ext'

PORTABLE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    'get_indice_pairs_3d_forward': sparse_conv.get_indice_pairs_3d_forward,
    'indice_conv_forward': sparse_conv.indice_conv_forward,
    'indice_conv_backward': sparse_conv.indice_conv_backward,
    'hard_voxelize_forward': voxelize.hard_voxelize_forward,
    'dynamic_voxelize_forward': voxelize.dynamic_voxelize_forward,
    'deform_conv_forward': deform_conv.deform_conv_forward,
    'deform_conv_backward_input': deform_conv.deform_conv_backward_input,
    'deform_conv_backward_parameters': deform_conv.deform_conv_backward_parameters,
    'ms_deform_attn_forward': deform_attention.ms_deform_attn_forward,
    'ms_deform_attn_backward': deform_attention.ms_deform_attn_backward,
}


class PortableExtension(types.ModuleType):
    """Stand-in for ``mmcv._ext``: portable functions, and an error for the others."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, doc=__doc__)
        # A spec without a loader answers find_spec, and says "not compiled" to pkgutil.find_loader.
        self.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None)
        self.__dict__.update(PORTABLE_FUNCTIONS)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # Python's import machinery asks for dunder names that a plain module may lack.
        if name.startswith('__'):
            raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')
        return functools.partial(_raise_missing, name)


def _raise_missing(name: str, *args: object, **kwargs: object) -> NoReturn:
    raise NotImplementedError(
        f'{name} of {EXTENSION} was called, but mmcv-lite has no compiled operators and the portable '
        f'ones are {", ".join(PORTABLE_FUNCTIONS)}. Install the compiled package to use it: '
        'pip uninstall mmcv-lite; pip install "mmcv>=2.0.0,<2.2.0"'
    )


def install_mmcv_extension() -> bool:
    """Put the stand-in for ``mmcv._ext`` into place, unless the compiled one exists.

    Safe to call again. Call it before mmdet or mmdet3d import their models.

    Returns:
        Whether the stand-in is in use.
    """
    present = sys.modules.get(EXTENSION)
    if present is not None:
        return isinstance(present, PortableExtension)
    if importlib.util.find_spec(EXTENSION) is not None:
        return False
    sys.modules[EXTENSION] = PortableExtension()
    # mmcv's SparseConvTensor.dense indexes with a list, as a tuple is meant; torch warns at each start
    warnings.filterwarnings('ignore', 'Using a non-tuple sequence', module=r'mmcv\.ops\.sparse_structure')
    return True


def guard_spconv() -> bool:
    """Hide spconv without CUDA; with CUDA let it run on CUDA tensors only.

    mmdet3d takes spconv whenever it can be imported. Without a CUDA device it is
    hidden from import, with a warning, and mmdet3d falls back to ``mmcv.ops``.
    With one it stays, and a CPU tensor handed to it raises a ``RuntimeError``.
    Safe to call again.

    Returns:
        Whether spconv is in use.
    """
    if 'spconv' in sys.modules and sys.modules['spconv'] is None:
        return False
    if importlib.util.find_spec('spconv') is None:
        return False
    if torch.cuda.is_available():
        _refuse_cpu_tensors(importlib.import_module('spconv.pytorch').SparseConvTensor)
        return True
    warnings.warn(
        'spconv is installed but no CUDA device was found: spconv computes wrong numbers on the CPU, '
        'so it is not used and sparse convolutions run in plain torch.',
        stacklevel=2,
    )
    sys.modules['spconv'] = None  # type: ignore[assignment]  # import now raises ModuleNotFoundError
    return False


def _refuse_cpu_tensors(tensor_class: type) -> None:
    """Make the constructor of spconv's tensor raise for features on the CPU."""
    original = tensor_class.__init__  # type: ignore[misc]
    if getattr(original, '_refuses_cpu', False):
        return

    @functools.wraps(original)
    def init(self: object, features: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if features.device.type == 'cpu':
            raise RuntimeError(
                'spconv was given a CPU tensor, and computes wrong numbers on the CPU. Move the model and '
                'its inputs to CUDA, or uninstall spconv to run sparse convolutions in plain torch.'
            )
        original(self, features, *args, **kwargs)

    init._refuses_cpu = True  # type: ignore[attr-defined]
    tensor_class.__init__ = init  # type: ignore[misc]
