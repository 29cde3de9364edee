"""Reading of recorded and packed datasets, with checks of every file."""

from .arrays import parse_array, parse_npz, parse_pickled_object
from .errors import SampleReadError, UnusableSampleError, check_name
from .frame_files import parse_json
from .images import decode_jpeg
from .readers import DatasetStorage, RouteReader
from .unpickle import restricted_loads

__all__ = [
    'DatasetStorage',
    'RouteReader',
    'SampleReadError',
    'UnusableSampleError',
    'check_name',
    'decode_jpeg',
    'parse_array',
    'parse_json',
    'parse_npz',
    'parse_pickled_object',
    'restricted_loads',
]
