"""A network with fixed random weights over the BEV masks, in place of the driving teacher.

CARLA recordings contain the feature maps of a reinforcement-learning teacher (Roach), which
is not part of this project. This network has the same output shapes and encodes the same
masks. Its features depend on the scene and can be learned, so the distillation losses can be
exercised; they carry no further meaning.
"""

from functools import lru_cache

import numpy as np
from numba import njit

# Output channels, kernel and stride of each layer on 15x192x192 masks.
LAYERS = ((8, 5, 2), (16, 5, 2), (32, 5, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1))
NUM_MASKS = 15
NUM_STATES = 6
NUM_FEATURES = 256
_SEED = 20235


@njit(cache=True)
def convolve(maps, weight, bias, stride: int):  # type: ignore[no-untyped-def]
    """ReLU of a convolution without padding; zeros in the input are skipped.

    Args:
        maps: (C, H, W) float32.
        weight: (C, k, k, O) float32.
        bias: (O,) float32.
        stride: In both directions.

    Returns:
        (O, h, w) float32.
    """
    channels, height, width = maps.shape
    kernel, outputs = weight.shape[1], weight.shape[3]
    rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    sums = np.empty((rows, columns, outputs), dtype=np.float32)
    for row in range(rows):
        for column in range(columns):
            sums[row, column] = bias
    for channel in range(channels):
        for i in range(height):
            first_row = max(0, (i - kernel + stride) // stride)
            last_row = min(rows - 1, i // stride)
            for j in range(width):
                value = maps[channel, i, j]
                if value == 0.0:
                    continue
                for row in range(first_row, last_row + 1):
                    first_column = max(0, (j - kernel + stride) // stride)
                    for column in range(first_column, min(columns - 1, j // stride) + 1):
                        taps = weight[channel, i - row * stride, j - column * stride]
                        target = sums[row, column]
                        for output in range(outputs):
                            target[output] += value * taps[output]
    result = np.empty((outputs, rows, columns), dtype=np.float32)
    for output in range(outputs):
        for row in range(rows):
            for column in range(columns):
                result[output, row, column] = max(sums[row, column, output], np.float32(0.0))
    return result


@njit(cache=True)
def dense(values, weight, bias):  # type: ignore[no-untyped-def]
    """ReLU of a linear layer: values (I,), weight (I, O), bias (O,) -> (O,), all float32."""
    sums = bias.copy()
    for index in range(len(values)):
        if values[index] != 0.0:
            for output in range(len(sums)):
                sums[output] += values[index] * weight[index, output]
    return np.maximum(sums, np.float32(0.0))


class TeacherNetwork:
    """The network; `teacher_network()` returns the instance shared within a process."""

    def __init__(self) -> None:
        rng = np.random.default_rng(_SEED)

        def draw(shape: tuple[int, ...], inputs: int, gain: float = 1.0) -> np.ndarray:
            return (rng.standard_normal(shape) * gain * np.sqrt(2.0 / inputs)).astype(np.float32)

        self.layers = []
        channels = NUM_MASKS
        for outputs, kernel, stride in LAYERS:
            # The masks are sparse, so the first layers need a gain to keep the activations from vanishing.
            gain = 1.6 if channels == NUM_MASKS else 1.1
            weight = draw((channels, kernel, kernel, outputs), channels * kernel * kernel, gain)
            bias = np.abs(rng.standard_normal(outputs) * 0.02).astype(np.float32)
            self.layers.append((weight, bias, stride))
            channels = outputs
        zero = np.zeros(NUM_FEATURES, dtype=np.float32)
        self.state_layers = [
            (draw((NUM_STATES, 256), NUM_STATES), zero),
            (draw((256, 256), 256), zero),
        ]
        self.head_layers = [
            (draw((4 * 256 + 256, 512), 1280), np.zeros(512, dtype=np.float32)),
            (draw((512, NUM_FEATURES), 512), zero),
        ]

    def encode(self, masks: np.ndarray, state: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the six feature maps and the feature vector, all >= 0.

        Args:
            masks: (15, 192, 192) uint8.
            state: (6,) throttle, steer, brake, gear, forward and rightward speed.

        Returns:
            Maps 8x94x94, 16x45x45, 32x21x21, 64x10x10, 128x4x4, 256x2x2 and (256,), float32.
        """
        maps = masks.astype(np.float32) / np.float32(255.0)
        levels = []
        for weight, bias, stride in self.layers:
            maps = convolve(maps, weight, bias, stride)
            levels.append(maps)
        values = state.astype(np.float32)
        for weight, bias in self.state_layers:
            values = dense(values, weight, bias)
        values = np.concatenate([maps.ravel(), values])
        for weight, bias in self.head_layers:
            values = dense(values, weight, bias)
        return levels, values


@lru_cache(maxsize=1)
def teacher_network() -> TeacherNetwork:
    """Return the network, built once per process."""
    return TeacherNetwork()
