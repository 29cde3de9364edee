"""Check before the first step that the sizes of a model fit its dataset."""

from collections.abc import Mapping
from typing import Any

from thinktwice.errors import ConfigError


def check_data_fits(model: Mapping[str, Any], metainfo: Mapping[str, Any]) -> None:
    """Compare the numbers of commands and classes in a model config with those of the data.

    In the first step, a smaller number would be an index error, on a GPU a device-side assert.

    Args:
        model: Config of the model.
        metainfo: ``metainfo`` of the dataset.

    Raises:
        ConfigError: The model has fewer commands than the data, or its segmentation loss fewer classes.
    """
    has_segmentation_loss = any(
        'SegmentationLoss' in str(loss.get('type')) for loss in model.get('losses', ())
    )
    needed = {
        'measurement_encoder.num_commands': metainfo.get('commands'),
        'img_encoder.seg_head.num_classes': metainfo.get('classes') if has_segmentation_loss else None,
    }
    for path, names in needed.items():
        node: Any = model
        for key in path.split('.'):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is not None and names is not None and node < len(names):
            what = path.rpartition('num_')[2]
            raise ConfigError(
                f'model.{path} is {node}, but the data has {len(names)} {what}: set it to {len(names)}'
            )
