"""Reading of recorded and packed datasets: formats, file backends, and checks of every file."""

from .arrays import parse_array, parse_npz, parse_pickled_object
from .base import DatasetStorage, RouteReader, check_name
from .errors import SampleReadError
from .images import decode_jpeg, decode_png
from .opening import open_storage
from .packed import is_packed
from .records import parse_json
from .unpickle import restricted_loads

__all__ = [
    'DatasetStorage',
    'RouteReader',
    'SampleReadError',
    'check_name',
    'decode_jpeg',
    'decode_png',
    'is_packed',
    'open_storage',
    'parse_array',
    'parse_json',
    'parse_npz',
    'parse_pickled_object',
    'restricted_loads',
]
