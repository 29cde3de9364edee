"""Reading of stored datasets: formats, backends, and checks on every file."""

from .arrays import parse_array, parse_pickled_object
from .base import DatasetStorage, RouteReader, check_name
from .errors import SampleReadError
from .images import check_png, decode_jpeg, decode_png
from .opening import open_storage
from .raw import RawStorage
from .records import parse_json, parse_measurements, parse_points, parse_supervision
from .unpickle import restricted_loads

__all__ = [
    'DatasetStorage',
    'RawStorage',
    'RouteReader',
    'SampleReadError',
    'check_name',
    'check_png',
    'decode_jpeg',
    'decode_png',
    'open_storage',
    'parse_array',
    'parse_json',
    'parse_measurements',
    'parse_pickled_object',
    'parse_points',
    'parse_supervision',
    'restricted_loads',
]
