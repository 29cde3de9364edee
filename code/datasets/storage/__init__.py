"""Reading of stored datasets: formats, backends, and checks on every file."""

from .arrays import parse_array, parse_pickled_object
from .base import DatasetStorage, RouteReader, check_name
from .errors import SampleReadError
from .images import check_png, decode_jpeg, decode_png
from .opening import open_storage
from .packed import PackedStorage, is_packed
from .raw import RawStorage
from .records import parse_json, parse_measurements, parse_points, parse_supervision
from .route_file import RouteFileReader, RouteFileWriter
from .unpickle import restricted_loads

__all__ = [
    'DatasetStorage',
    'PackedStorage',
    'RawStorage',
    'RouteFileReader',
    'RouteFileWriter',
    'RouteReader',
    'SampleReadError',
    'check_name',
    'check_png',
    'decode_jpeg',
    'decode_png',
    'is_packed',
    'open_storage',
    'parse_array',
    'parse_json',
    'parse_measurements',
    'parse_pickled_object',
    'parse_points',
    'parse_supervision',
    'restricted_loads',
]
