"""Decoding of image files that may be truncated, of a wrong size or no images at all.

``path`` says where the bytes came from, for messages; ``size`` is the expected (height, width). Whatever
is wrong is raised as :class:`SampleReadError`, before the decoder can allocate more than an image of that
size.
"""

import struct
import zlib

import cv2
import numpy as np

from .errors import SampleReadError

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_JPEG_SIGNATURE = b'\xff\xd8'
_HEADER = struct.Struct('>II5B')
_CHUNK = struct.Struct('>I4s')
# Channels by PNG color type: 0 gray, 2 RGB, 3 palette, 4 gray + alpha, 6 RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def decode_png(data: bytes, path: str, size: tuple[int, int], channels: int = 3, bits: int = 8) -> np.ndarray:
    """Decode a PNG file after checking its form, checksums, size, channels and bits per channel.

    The checks cost about a hundredth of decoding.

    Returns:
        (H, W, 3) in RGB order or (H, W) for one channel, uint8 or uint16.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise SampleReadError(path, 'empty file' if not data else 'not a PNG file')
    _check_chunks(data, path)
    width, height, found_bits, color_type, *_ = _HEADER.unpack_from(data, 16)
    _check_size((height, width), path, size)
    found_channels = _CHANNELS.get(color_type, 0)
    if color_type == 3 or found_channels != channels or found_bits != bits:
        kind = 'palette' if color_type == 3 else f'{found_channels} channel(s)'
        raise SampleReadError(
            path, f'an image with {kind} of {found_bits} bits, expected {channels} of {bits} bits'
        )
    flags = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    return _decode(data, path, size, flags if bits == 8 else flags | cv2.IMREAD_ANYDEPTH)


def _check_chunks(data: bytes, path: str) -> None:
    view = memoryview(data)
    kind, position = b'', len(PNG_SIGNATURE)
    while kind != b'IEND':
        length, kind = _CHUNK.unpack_from(data, position) if position + 12 <= len(data) else (len(data), b'')
        end = position + 8 + length
        if end + 4 > len(data):
            raise SampleReadError(path, f'truncated PNG file ({len(data)} bytes, no end mark)')
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], 'big'):
            raise SampleReadError(path, f'damaged PNG file (checksum of its part at byte {position})')
        if position == len(PNG_SIGNATURE) and (kind != b'IHDR' or length != 13):
            raise SampleReadError(path, 'damaged PNG file (no header)')
        position = end + 4


def decode_jpeg(data: bytes, path: str, size: tuple[int, int]) -> np.ndarray:
    """Decode a JPEG file to (H, W, 3) uint8 RGB after checking the size that it announces."""
    if not data.startswith(_JPEG_SIGNATURE):
        raise SampleReadError(path, 'empty file' if not data else 'not a JPEG file')
    position = len(_JPEG_SIGNATURE)
    while position + 9 <= len(data) and data[position] == 0xFF:
        if data[position + 1] in (0xC0, 0xC1, 0xC2):  # the frame header
            _check_size(struct.unpack_from('>HH', data, position + 5), path, size)
            return _decode(data, path, size, cv2.IMREAD_COLOR_RGB)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    raise SampleReadError(path, 'damaged JPEG file (no frame header)')


def _check_size(found: tuple[int, ...], path: str, size: tuple[int, int]) -> None:
    if found != tuple(size):
        raise SampleReadError(
            path,
            f'an image of {found[0]}x{found[1]} pixels (height x width), expected {size[0]}x{size[1]} '
            'as the calibration of the dataset says',
        )


def _decode(data: bytes, path: str, size: tuple[int, int], flags: int) -> np.ndarray:
    try:
        # orientation tags would turn the image; the recorder writes none
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise SampleReadError(path, f'the image decoder failed ({error.err})') from error
    if image is None:
        raise SampleReadError(path, 'damaged image, the decoder gave up')
    _check_size(image.shape[:2], path, size)
    return image
