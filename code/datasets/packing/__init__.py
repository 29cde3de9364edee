"""Turning recorded datasets into packed ones, and back."""

from .datasets import Execution, count_routes, pack_dataset, unpack_dataset, verify_dataset
from .routes import RouteReport
from .settings import PackSettings, packed_calibration, stored_geometry

__all__ = [
    'Execution',
    'PackSettings',
    'RouteReport',
    'count_routes',
    'pack_dataset',
    'packed_calibration',
    'stored_geometry',
    'unpack_dataset',
    'verify_dataset',
]
