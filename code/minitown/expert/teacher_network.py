"""A small driving teacher over the BEV masks: the source of the recorded feature maps.

CARLA recordings contain the feature maps of a reinforcement-learning teacher (Roach), which is not
part of this project. This network has the same output shapes and reads the same masks. It was trained
to predict the expert's control and value from masks and speed (tools/train_teacher.py), and its last
layer is left out: what remains are features of the scene that matter for driving.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numba import njit

# Output channels, kernel and stride of each layer on 15x192x192 masks.
LAYERS = ((8, 5, 2), (16, 5, 2), (32, 5, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1))
NUM_MASKS = 15
NUM_HIDDEN = 128
NUM_FEATURES = 256
SPEED_SCALE = 10.0  # m/s
WEIGHTS_FILE = Path(__file__).with_name('teacher_weights.npz')


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


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round weights (..., O) to int8, with a float32 scale (O,) for each output."""
    scale = np.maximum(np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0), 1e-8) / 127
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)


class TeacherNetwork:
    """The network; `teacher_network()` returns the instance shared within a process.

    Args:
        arrays: ``weight0``, ``scale0``, ``bias0`` of the first layer, and so on: the convolutions of
            `LAYERS` as (C, k, k, O), then two linear layers as (I, O).
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        layers = [
            (arrays[f'weight{i}'] * arrays[f'scale{i}'], arrays[f'bias{i}']) for i in range(len(LAYERS) + 2)
        ]
        self.convolutions, self.linear_layers = layers[: len(LAYERS)], layers[len(LAYERS) :]

    def encode(self, masks: np.ndarray, speed: float) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the six feature maps and the feature vector, all >= 0.

        Args:
            masks: (15, 192, 192) uint8.
            speed: Of the ego, m/s.

        Returns:
            Maps 8x94x94, 16x45x45, 32x21x21, 64x10x10, 128x4x4, 256x2x2 and (256,), float32.
        """
        maps = masks.astype(np.float32) / np.float32(255.0)
        levels = []
        for (weight, bias), (_, _, stride) in zip(self.convolutions, LAYERS, strict=True):
            maps = convolve(maps, weight, bias, stride)
            levels.append(maps)
        values = np.append(maps.ravel(), np.float32(speed / SPEED_SCALE))
        for weight, bias in self.linear_layers:
            values = dense(values, weight, bias)
        return levels, values


@lru_cache(maxsize=1)
def teacher_network() -> TeacherNetwork:
    """Return the trained network, loaded once per process."""
    with np.load(WEIGHTS_FILE, allow_pickle=False) as arrays:
        return TeacherNetwork(dict(arrays))
