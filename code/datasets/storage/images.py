"""Decoding of image files that may be truncated, of a wrong size or no images at all."""

import struct
import zlib

import cv2
import numpy as np

from .errors import SampleReadError

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_JPEG_SIGNATURE = b'\xff\xd8'
_JPEG_SIZE = struct.Struct('>HH')
_HEADER = struct.Struct('>II5B')
_CHUNK = struct.Struct('>I4s')
# Channels by PNG color type: 0 gray, 2 RGB, 3 palette, 4 gray + alpha, 6 RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def check_png(data: bytes, path: str, size: tuple[int, int], channels: int, bits: int = 8) -> None:
    """Check a PNG file before it is decoded: form, checksums, size, channels.

    Costs about a hundredth of decoding. A file that passes cannot make the decoder allocate more than an
    image of the expected size.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.
        size: Expected height and width, pixels.
        channels: Expected number of channels.
        bits: Expected bits per channel.

    Raises:
        SampleReadError: Something differs.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise SampleReadError(path, 'empty file' if not data else 'not a PNG file')
    _check_chunks(data, path)
    width, height, found_bits, color_type, *_ = _HEADER.unpack_from(data, 16)
    if (height, width) != tuple(size):
        raise SampleReadError(
            path,
            f'an image of {height}x{width} pixels (height x width), expected {size[0]}x{size[1]} '
            'as the calibration of the dataset says',
        )
    found_channels = _CHANNELS.get(color_type, 0)
    if color_type == 3 or found_channels != channels or found_bits != bits:
        kind = 'palette' if color_type == 3 else f'{found_channels} channel(s)'
        raise SampleReadError(
            path, f'an image with {kind} of {found_bits} bits, expected {channels} of {bits} bits'
        )


def _check_chunks(data: bytes, path: str) -> None:
    view = memoryview(data)
    position, first = len(PNG_SIGNATURE), True
    while True:
        if position + 12 > len(data):
            raise SampleReadError(path, f'truncated PNG file ({len(data)} bytes, no end mark)')
        length, kind = _CHUNK.unpack_from(data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise SampleReadError(path, f'truncated PNG file ({len(data)} bytes, no end mark)')
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], 'big'):
            raise SampleReadError(path, f'damaged PNG file (checksum of its part at byte {position})')
        if first and (kind != b'IHDR' or length != 13):
            raise SampleReadError(path, 'damaged PNG file (no header)')
        if kind == b'IEND':
            return
        position, first = end + 4, False


def decode_png(data: bytes, path: str, size: tuple[int, int], channels: int = 3, bits: int = 8) -> np.ndarray:
    """Decode a PNG file after checking it.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.
        size: Expected height and width, pixels.
        channels: Expected number of channels, 3 (RGB) or 1 (gray).
        bits: Expected bits per channel, 8 or 16.

    Returns:
        (H, W, 3) in RGB order or (H, W), uint8 or uint16.

    Raises:
        SampleReadError: The file is not exactly that.
    """
    check_png(data, path, size, channels, bits)
    flags = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    if bits != 8:
        flags |= cv2.IMREAD_ANYDEPTH
    return _decode(data, path, size, flags)


def decode_jpeg(data: bytes, path: str, size: tuple[int, int]) -> np.ndarray:
    """Decode a JPEG file after checking the size that it announces.

    Args:
        data: Contents of the file.
        path: Where they came from, for messages.
        size: Expected height and width, pixels.

    Returns:
        (H, W, 3) uint8, RGB order.

    Raises:
        SampleReadError: It cannot be decoded or has another size.
    """
    height, width = _jpeg_size(data, path)
    if (height, width) != tuple(size):
        raise SampleReadError(path, f'an image of {height}x{width} pixels, expected {size[0]}x{size[1]}')
    return _decode(data, path, size, cv2.IMREAD_COLOR_RGB)


def _jpeg_size(data: bytes, path: str) -> tuple[int, int]:
    """Height and width from the frame header: the first segment of type C0 to C2."""
    if not data.startswith(_JPEG_SIGNATURE):
        raise SampleReadError(path, 'empty file' if not data else 'not a JPEG file')
    position = len(_JPEG_SIGNATURE)
    while position + 9 <= len(data) and data[position] == 0xFF:
        if data[position + 1] in (0xC0, 0xC1, 0xC2):
            height, width = _JPEG_SIZE.unpack_from(data, position + 5)
            return height, width
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    raise SampleReadError(path, 'damaged JPEG file (no frame header)')


def _decode(data: bytes, path: str, size: tuple[int, int], flags: int) -> np.ndarray:
    if not data:
        raise SampleReadError(path, 'empty file')
    try:
        # orientation tags would turn the image; the recorder writes none
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise SampleReadError(path, f'the image decoder failed ({error.err})') from error
    if image is None:
        raise SampleReadError(path, 'damaged image, the decoder gave up')
    if image.shape[:2] != tuple(size):
        height, width = image.shape[:2]
        raise SampleReadError(path, f'an image of {height}x{width} pixels, expected {size[0]}x{size[1]}')
    return image
