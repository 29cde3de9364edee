"""Packing of recorded datasets."""

from .datasets import Execution, count_routes, pack_dataset, verify_dataset
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
    'verify_dataset',
]
