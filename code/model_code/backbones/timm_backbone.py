"""Image backbones of timm by name."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxtyping import Float
from mmengine.model import BaseModule
from torch import Tensor

from thinktwice.errors import ConfigError
from thinktwice.registry import MODELS


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Any model of timm that gives feature maps (``features_only``).

    Args:
        name: Name in timm, such as ``convnext_nano``; ``timm.list_models()`` lists them.
        strides: Strides of the levels to return, fine to coarse.
        checkpoint: File of pretrained weights as timm publishes them (``ckpt/model.safetensors``);
            None for random weights.

    Attributes:
        out_channels: Channels of each level.

    Raises:
        ConfigError: If timm is not installed, has no such model, or the model has no level of a stride.
    """

    def __init__(
        self, name: str, strides: Sequence[int] = (4, 8, 16, 32), checkpoint: str | None = None
    ) -> None:
        super().__init__()
        try:
            timm: Any = import_module('timm')
        except ImportError as error:
            raise ConfigError(
                'TimmBackbone needs timm, an optional extra: pip install -r requirements/timm.txt'
            ) from error
        if not timm.is_model(name):
            raise ConfigError(f'TimmBackbone: timm {timm.__version__} has no model {name!r}')
        try:
            found = timm.create_model(name, features_only=True).feature_info.reduction()
            levels = [found.index(stride) for stride in strides]
        except (RuntimeError, AttributeError, ValueError) as error:
            raise ConfigError(f'TimmBackbone: {name} has no levels of strides {tuple(strides)}') from error
        self.checkpoint = checkpoint
        self._create = partial(timm.create_model, name, features_only=True, out_indices=levels)
        self.model = self._create()
        self.out_channels = self.model.feature_info.channels()

    def init_weights(self) -> None:
        """Load the pretrained weights; random ones are those of timm, from when the model was built.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
        """
        if self.checkpoint is None:
            return
        if not Path(self.checkpoint).is_file():
            raise FileNotFoundError(f'TimmBackbone: checkpoint={self.checkpoint} does not exist')
        pretrained = self._create(pretrained=True, pretrained_cfg_overlay={'file': self.checkpoint})
        self.model.load_state_dict(pretrained.state_dict())

    def forward(self, images: Float[Tensor, 'B 3 H W']) -> list[Float[Tensor, 'B _ _ _']]:
        """Feature maps, fine to coarse."""
        return self.model(images)
