"""A replacement for mmcv's compiled extension, so that mmdet and mmdet3d run with ``mmcv-lite``.

``mmcv-lite`` has the Python part of ``mmcv.ops`` but not ``mmcv._ext``, so importing any model of
mmdet or mmdet3d fails. :func:`install_mmcv_extension` installs a replacement module: the functions
that this project uses in plain PyTorch, and an error for all others. It does nothing where the
compiled extension exists.

:func:`guard_spconv` prevents mmdet3d from using spconv on the CPU, where a data race in its kernels
gives wrong results.
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
    """Replacement for ``mmcv._ext``: portable functions, and an error for all others."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, doc=__doc__)
        # with a spec without a loader, find_spec succeeds and pkgutil.find_loader returns None
        self.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None)
        self.__dict__.update(PORTABLE_FUNCTIONS)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # the import system queries dunder names that a module need not have
        if name.startswith('__'):
            raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')
        return functools.partial(_raise_missing, name)


def _raise_missing(name: str, *args: object, **kwargs: object) -> NoReturn:
    raise NotImplementedError(
        f'{name} of {EXTENSION} was called, but mmcv-lite has no compiled operators, and portable are only '
        f'{", ".join(PORTABLE_FUNCTIONS)}. Install the compiled package to use it: '
        'pip uninstall mmcv-lite; pip install "mmcv>=2.0.0,<2.2.0"'
    )


def install_mmcv_extension() -> bool:
    """Install the replacement for ``mmcv._ext``, unless the compiled extension exists.

    Idempotent. Must be called before mmdet or mmdet3d import their models.

    Returns:
        Whether the replacement is in use.
    """
    present = sys.modules.get(EXTENSION)
    if present is not None:
        return isinstance(present, PortableExtension)
    if importlib.util.find_spec(EXTENSION) is not None:
        return False
    sys.modules[EXTENSION] = PortableExtension()
    # SparseConvTensor.dense of mmcv indexes with a list instead of a tuple, which torch warns about
    warnings.filterwarnings('ignore', 'Using a non-tuple sequence', module=r'mmcv\.ops\.sparse_structure')
    return True


def guard_spconv() -> bool:
    """Restrict spconv to CUDA tensors.

    mmdet3d uses spconv whenever it can be imported. Without a CUDA device its import is blocked, with
    a warning, and mmdet3d falls back to ``mmcv.ops``. With a CUDA device it raises a ``RuntimeError``
    for CPU tensors. Idempotent.

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
        'spconv is installed but no CUDA device was found: spconv gives wrong results on the CPU, '
        'so it is not used and sparse convolutions run in plain PyTorch.',
        stacklevel=2,
    )
    sys.modules['spconv'] = None  # type: ignore[assignment]  # import now raises ModuleNotFoundError
    return False


def _refuse_cpu_tensors(tensor_class: type) -> None:
    """Make the constructor of spconv's sparse tensor raise for features on the CPU."""
    original = tensor_class.__init__  # type: ignore[misc]
    if getattr(original, '_refuses_cpu', False):
        return

    @functools.wraps(original)
    def init(self: object, features: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if features.device.type == 'cpu':
            raise RuntimeError(
                'spconv was called with a CPU tensor, and gives wrong results on the CPU. Move the model and '
                'its inputs to CUDA, or uninstall spconv to run sparse convolutions in plain PyTorch.'
            )
        original(self, features, *args, **kwargs)

    init._refuses_cpu = True  # type: ignore[attr-defined]
    tensor_class.__init__ = init  # type: ignore[misc]
