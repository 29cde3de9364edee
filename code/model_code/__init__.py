"""The parts of the model.

Shapes are jaxtyping annotations, checked in the tests only. Names of dimensions: B batch, T frames
(oldest first, key frame last), N cameras, C channels (Cv of the BEV vector, Cm of the encoded
measurements, Cl of the LiDAR map), H W pixels of an image, h w of a feature map, D depth bins, X Y BEV
cells (X forward, Y lateral), K future steps, L refinement layers, Q look queries, P points. A name with
a leading underscore, or an underscore alone, is any size.
"""

# isort: skip_file
# The order matters: mmcv's compiled operators are replaced before anything of mmdet or mmdet3d is imported.
from thinktwice.model_code.ops import guard_spconv, install_mmcv_extension

install_mmcv_extension()
guard_spconv()

# The registries of mmdet and mmdet3d must exist before a config names `mmdet.ResNet`; their models, which
# take seconds to import, are imported when the first one is built.
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
