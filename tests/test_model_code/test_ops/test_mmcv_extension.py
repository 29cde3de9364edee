import importlib
import subprocess
import sys
import types
import warnings

import pytest
import torch

from thinktwice.model_code.ops import mmcv_extension
from thinktwice.model_code.ops.mmcv_extension import PortableExtension, guard_spconv, install_mmcv_extension


def test_the_stand_in_is_used_without_the_compiled_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, mmcv_extension.EXTENSION, raising=False)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert install_mmcv_extension()
    first = sys.modules[mmcv_extension.EXTENSION]
    assert isinstance(first, PortableExtension)
    assert install_mmcv_extension()
    assert sys.modules[mmcv_extension.EXTENSION] is first


@pytest.mark.parametrize('imported', [True, False])
def test_it_steps_aside_where_the_compiled_extension_exists(monkeypatch, imported: bool) -> None:
    compiled = types.ModuleType(mmcv_extension.EXTENSION)
    monkeypatch.delitem(sys.modules, mmcv_extension.EXTENSION, raising=False)
    if imported:
        monkeypatch.setitem(sys.modules, mmcv_extension.EXTENSION, compiled)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: compiled)
    assert not install_mmcv_extension()
    assert sys.modules.get(mmcv_extension.EXTENSION) is (compiled if imported else None)


def test_an_unknown_function_raises_when_called_and_names_the_remedy() -> None:
    function = PortableExtension().ball_query_forward
    with pytest.raises(NotImplementedError, match=r'ball_query_forward .*pip install "mmcv>=2.0.0,<2.2.0"'):
        function(torch.zeros(1), radius=3)


def test_the_stand_in_looks_like_a_module() -> None:
    extension = PortableExtension()
    assert not hasattr(extension, '__path__')
    assert extension.__spec__ is not None
    assert extension.__name__ == 'mmcv._ext'


def test_spconv_is_hidden_with_a_warning_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, 'spconv', raising=False)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setitem(sys.modules, 'spconv', types.ModuleType('spconv'))
    with pytest.warns(UserWarning, match='wrong results on the CPU'):
        assert not guard_spconv()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('spconv')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not guard_spconv()


def test_with_cuda_spconv_stays_and_refuses_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    class SparseConvTensor:
        def __init__(self, features, indices):
            self.features, self.indices = features, indices

    package, half = types.ModuleType('spconv'), types.ModuleType('spconv.pytorch')
    half.SparseConvTensor = SparseConvTensor
    monkeypatch.setitem(sys.modules, 'spconv', package)
    monkeypatch.setitem(sys.modules, 'spconv.pytorch', half)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert guard_spconv()
    assert guard_spconv()
    with pytest.raises(RuntimeError, match='Move the model and its inputs to CUDA'):
        SparseConvTensor(torch.zeros(1, 3), None)
    kept = SparseConvTensor(torch.zeros(1, 3, device='meta'), indices='sites')
    assert kept.indices == 'sites'


PARTS = """
from mmdet3d.registry import MODELS as MODELS3D
import thinktwice.model_code
from thinktwice.model_code.ops.mmcv_extension import PortableExtension
import sys
from mmdet.registry import MODELS
assert 'mmdet3d.models' not in sys.modules, 'model_code should not import all models of mmdet3d'
parts = [
    MODELS.build(dict(type='mmdet.ResNet', depth=18)),
    MODELS.build(dict(type='mmdet.PAFPN', in_channels=[64, 128], out_channels=32, num_outs=2)),
    MODELS3D.build(dict(type='mmdet3d.HardSimpleVFE', num_features=5)),
    MODELS3D.build(dict(type='mmdet3d.SparseEncoder', in_channels=5, sparse_shape=[41, 64, 64])),
    MODELS3D.build(dict(type='mmdet3d.SECOND', in_channels=128)),
    MODELS3D.build(dict(type='mmdet3d.SECONDFPN')),
]
print([type(part).__name__ for part in parts])
"""


@pytest.mark.slow
def test_parts_of_mmdet_and_mmdet3d_build_in_a_fresh_process() -> None:
    result = subprocess.run([sys.executable, '-c', PARTS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = "['ResNet', 'PAFPN', 'HardSimpleVFE', 'SparseEncoder', 'SECOND', 'SECONDFPN']"
    assert names in result.stdout
