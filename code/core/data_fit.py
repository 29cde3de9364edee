"""Check before the first step that a model fits its dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinktwice.errors import ConfigError

#: Losses that compare BEV maps of the model with those of the teacher, cell by cell.
MAP_LOSSES = ('BEVFeatureLoss', 'RefineFeatureLoss', 'TeacherForcingFeatureLoss')

#: The teacher's convolutions have no padding: the outermost cells of its 21 x 21 map begin up to 13 of 192
#: pixels inside of the range of its masks, and those of the model may.
MARGIN = 0.07


def check_data_fits(model: Mapping[str, Any], metainfo: Mapping[str, Any], trains: bool) -> None:
    """Compare the numbers of commands and classes and the BEV range of a model config with the data's.

    In the first step, a smaller number would be an index error, on a GPU a device-side assert. Another range
    would be no error: the model would learn maps of other places.

    Args:
        model: Config of the model.
        metainfo: ``metainfo`` of the dataset.
        trains: Whether the losses of the model are used.

    Raises:
        ConfigError: The model has fewer commands than the data, or its segmentation loss fewer classes, or
            its BEV range is not that of the teacher's maps, and a loss compares them.
    """
    configured = model.get('losses')  # a model of the user's own may hold something else
    parts = configured.values() if isinstance(configured, Mapping) else ()
    losses = [str(loss.get('type')) for loss in parts if loss]
    has_segmentation_loss = any('SegmentationLoss' in name for name in losses)
    needed = {
        'measurement_encoder.num_commands': metainfo.get('commands'),
        'img_encoder.seg_head.num_classes': metainfo.get('classes') if has_segmentation_loss else None,
    }
    for path, names in needed.items():
        node = _entry(model, path)
        if node is not None and names is not None and node < len(names):
            what = path.rpartition('num_')[2]
            raise ConfigError(
                f'model.{path} is {node}, but the data has {len(names)} {what}: set it to {len(names)}'
            )
    map_losses = [name for name in losses if name.rpartition('.')[2] in MAP_LOSSES]
    if trains and map_losses:
        _check_bev_range(model, metainfo.get('bev', {}), map_losses[0])


def _check_bev_range(model: Mapping[str, Any], ranges: Mapping[str, Any], loss: str) -> None:
    for axis, expected in ranges.items():
        bounds = _entry(model, f'img_encoder.view_transform.bev_grid.{axis}_bounds')
        is_range = isinstance(bounds, Sequence) and all(isinstance(end, (int, float)) for end in bounds[:2])
        if is_range and not _covers(expected, bounds[:2]):  # what is no range, the view transform refuses
            raise ConfigError(
                f'{axis}_range is {tuple(bounds[:2])} m, but the maps of the teacher cover {tuple(expected)} '
                f'm (bev in calibration.json of the dataset) or up to {MARGIN:.0%} less at each end: set '
                f'{axis}_range to what they cover, or leave out {loss} and the other losses of these maps'
            )


def _covers(teacher: Sequence[float], model: Sequence[float]) -> bool:
    """Whether the range of the model ends where that of the teacher does, or up to MARGIN inside."""
    low, high = teacher
    margin = MARGIN * (high - low)
    return -1e-3 <= model[0] - low <= margin and -1e-3 <= high - model[1] <= margin


def _entry(model: Mapping[str, Any], path: str) -> Any:
    """An entry of a config by its dotted key, None if it has none."""
    node: Any = model
    for key in path.split('.'):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
