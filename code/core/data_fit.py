"""Check before the first step that a model fits its dataset."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from thinktwice.config.overrides import find_entry
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
        ConfigError: The model has fewer commands than the data, or its segmentation loss fewer classes; its
            parts differ in their BEV range, or this is not that of the teacher's maps that a loss reads.
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
        node = find_entry(model, path)
        if node is not None and names is not None and node < len(names):
            what = path.rpartition('num_')[2]
            raise ConfigError(
                f'model.{path} is {node}, but the data has {len(names)} {what}: set it to {len(names)}'
            )
    _check_same_range(model)
    map_losses = [name for name in losses if name.rpartition('.')[2] in MAP_LOSSES]
    if trains and map_losses:
        _check_bev_range(model, metainfo.get('bev', {}), map_losses[0])


def _check_bev_range(model: Mapping[str, Any], ranges: Mapping[str, Any], loss: str) -> None:
    for axis, expected in ranges.items():
        for _, found in _bev_ranges(model, axis)[:1]:
            if not _covers(expected, found):
                raise ConfigError(
                    f'{axis}_range is {found} m, but the maps of the teacher cover {tuple(expected)} m (bev '
                    f'in calibration.json of the dataset) or up to {MARGIN:.0%} less at each end: set '
                    f'{axis}_range to what they cover, or leave out {loss} and the other losses of these maps'
                )


def _check_same_range(model: Mapping[str, Any]) -> None:
    """The maps of cameras and LiDAR are added, and the decoder reads the LiDAR's by coordinates."""
    for axis in 'xy':
        for (first, expected), (key, found) in pairwise(_bev_ranges(model, axis)):
            if max(abs(a - b) for a, b in zip(expected, found, strict=True)) > 1e-3:
                raise ConfigError(
                    f'model.{key} is {found} m along {axis}, but model.{first} is {expected} m: both have to '
                    f'be equal, so set {axis}_range of the config'
                )


def _bev_ranges(model: Mapping[str, Any], axis: str) -> list[tuple[str, tuple[float, float]]]:
    """Key and ends of the ranges of a model along an axis; what is no range, its part refuses."""
    places = {
        f'img_encoder.view_transform.bev_grid.{axis}_bounds': slice(0, 2),
        'lidar_encoder.voxelize.point_cloud_range': slice('xy'.index(axis), 5, 3),
        f'decoder.{axis}_range': slice(0, 2),
    }
    found = []
    for key, part in places.items():
        bounds = find_entry(model, key)
        ends = tuple(bounds[part]) if isinstance(bounds, Sequence) else ()
        if len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends):
            found.append((key, ends))
    return found


def _covers(teacher: Sequence[float], model: Sequence[float]) -> bool:
    """Whether the range of the model ends where that of the teacher does, or up to MARGIN inside."""
    low, high = teacher
    margin = MARGIN * (high - low)
    return -1e-3 <= model[0] - low <= margin and -1e-3 <= high - model[1] <= margin
