"""The model's parts. Legend of sizes, used in every shape comment.

B batch, T frames (oldest first, key frame last), N cameras, C channels,
H W pixels, D depth bins, X Y bird's-eye-view cells, K future steps,
L refinement layers, P points.
"""

# isort: skip_file
# The order matters: the stand-in for mmcv's compiled operators comes before anything of mmdet or mmdet3d.
from thinktwice.model_code.ops import guard_spconv, install_mmcv_extension

install_mmcv_extension()
guard_spconv()

# The registries of mmdet and mmdet3d have to exist before a config names `mmdet.ResNet`; their models
# are imported (seconds) when one is first built.
import mmdet.registry  # noqa: E402, F401
import mmdet3d.registry  # noqa: E402, F401

from thinktwice.model_code import (  # noqa: E402
    backbones,
    data_preprocessor,
    dense_heads,
    losses,
    ops,
    photometric,
)

__all__ = ['backbones', 'data_preprocessor', 'dense_heads', 'losses', 'ops', 'photometric']
