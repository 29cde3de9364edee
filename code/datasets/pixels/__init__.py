"""Pixel operations between a stored image and a sample."""

from .augmentation import (
    SCALE_RANGE,
    ImageAugmentation,
    center_augmentation,
    draw_augmentation,
    smallest_scale,
)
from .classes import (
    IGNORED_ID,
    KEPT_IDS,
    LAST_RECORDED_ID,
    check_class_ids,
    split_traffic_lights,
    to_training_ids,
    training_id_table,
)
from .depth import compact_depth, decode_depth, encode_depth
from .warp import PixelMap, distort_points, pixel_map, warp_class_ids, warp_depth_code, warp_rgb

__all__ = [
    'IGNORED_ID',
    'KEPT_IDS',
    'LAST_RECORDED_ID',
    'SCALE_RANGE',
    'ImageAugmentation',
    'PixelMap',
    'center_augmentation',
    'check_class_ids',
    'compact_depth',
    'decode_depth',
    'distort_points',
    'draw_augmentation',
    'encode_depth',
    'pixel_map',
    'smallest_scale',
    'split_traffic_lights',
    'to_training_ids',
    'training_id_table',
    'warp_class_ids',
    'warp_depth_code',
    'warp_rgb',
]
