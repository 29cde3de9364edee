"""Encoding of depth in the stored images."""

import numpy as np

METERS_PER_UNIT = 1000.0 / (256**3 - 1)
# Packed code: 16-bit, linear. Constant steps compress to half the size of inverse
# depth and are finer at 40 m, where supervision ends. 0 = no depth.
COMPACT_STEP = 1.0 / 64.0


def decode_depth(code: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Convert depth codes to meters along the optical axis.

    The recorded code is ``(R + 256 G + 65536 B) / (256^3 - 1) * 1000``; the
    integer stays below 2^24, so float32 represents it exactly. In both forms a
    code of zero means no depth.

    Args:
        code: (..., 3) uint8 in RGB order as recorded, or (...) uint16 as packed.
        offset: Offset to add, meters (``CameraCalibration.depth_offset``).

    Returns:
        (...) float32 meters; 0 where there is no depth.
    """
    if code.dtype == np.uint16:
        depth = code.astype(np.float32)
        depth *= np.float32(COMPACT_STEP)
    else:
        depth = code[..., 2].astype(np.float32)
        depth *= 256.0
        depth += code[..., 1]
        depth *= 256.0
        depth += code[..., 0]
        depth *= np.float32(METERS_PER_UNIT)
    if offset:
        valid = depth > 0
        depth += np.float32(offset)
        depth *= valid
        np.maximum(depth, 0, out=depth)
    return depth


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Convert meters to the recorded three-byte code.

    Args:
        depth: (...) meters in [0, 1000].

    Returns:
        (..., 3) uint8, RGB order; accurate to 0.03 mm.
    """
    units = np.rint(np.clip(depth, 0, 1000).astype(np.float64) / METERS_PER_UNIT).astype(np.uint32)
    return np.stack([units & 255, units >> 8 & 255, units >> 16], axis=-1).astype(np.uint8)


def compact_depth(code: np.ndarray) -> np.ndarray:
    """Convert recorded depth codes to the 16-bit form of packed datasets.

    The error is at most half a step, 7.8 mm, at any distance up to 1000 m.
    Depths below half a step become the smallest nonzero code.

    Args:
        code: (..., 3) uint8, RGB order.

    Returns:
        (...) uint16.
    """
    depth = decode_depth(code)
    units = np.rint(depth / np.float32(COMPACT_STEP))
    return np.where(depth > 0, np.maximum(units, 1), 0).astype(np.uint16)
