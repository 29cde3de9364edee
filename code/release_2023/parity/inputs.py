"""Deterministic weights and batches in the format of the official 2023 model.

Weights depend only on their official names and shapes, a batch only on a seed, so that two
implementations can be compared without exchanging gigabytes. Both use numpy's legacy
generator, whose stream is frozen. The order of the draws is part of the definition: do not
reorder them.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Last parts of the names of official entries that the config determines.
DERIVED_ENTRIES = ('voxel_size', 'voxel_coord', 'voxel_num', 'frustum')

NUM_STEPS = 4
NUM_COMMANDS = 6
RAW_SIZE = (900, 1600)  # rows, columns of a recorded image
PAPER_SIZE = (448, 896)  # rows, columns that the resize range below refers to
RESIZE_RANGE = (0.56, 0.6255)
TEACHER_MAP_SHAPES = ((32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2))

#: Undistorted pinhole matrix of the recorded cameras, pixels of a raw image.
INTRINSICS = np.array([[304.14395142, 0.0, 788.25758876], [0.0, 221.49429321, 449.78972161], [0.0, 0.0, 1.0]])
#: Ego to camera of the front, left, right and back camera (rows of each matrix).
EGO2CAM = np.array(
    [
        [[0, 1, 0, 0], [0, 0, -1, 2.5], [1, 0, 0, -1.5], [0, 0, 0, 1]],
        [[1, 0, 0, 0], [0, 0, -1, 2.5], [0, -1, 0, -0.3], [0, 0, 0, 1]],
        [[-1, 0, 0, 0], [0, 0, -1, 2.5], [0, 1, 0, -0.3], [0, 0, 0, 1]],
        [[0, -1, 0, 0], [0, 0, -1, 2.5], [-1, 0, 0, -1.6], [0, 0, 0, 1]],
    ],
    dtype=np.float64,
)
NUM_CAMERAS = len(EGO2CAM)


def deterministic_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Values for every official entry, determined by its name and shape.

    Args:
        shapes: Official name to shape; kernels of sparse convolutions in the
            layout ``[out, kz, ky, kx, in]``.

    Returns:
        Official name to float32 tensor (int64 for ``num_batches_tracked``),
        without the entries that the config determines.
    """
    return {
        name: torch.from_numpy(np.asarray(_fill(name, tuple(shape))))
        for name, shape in shapes.items()
        if name.rsplit('.', 1)[-1] not in DERIVED_ENTRIES
    }


def _fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = name.rsplit('.', 1)[-1]
    if kind == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    draw = rng.standard_normal(size=shape).astype(np.float32)
    if kind == 'running_var':
        return 1.0 + 0.2 * np.abs(draw)
    if kind == 'running_mean':
        return 0.1 * draw
    if kind == 'bias' and 'sampling_offsets' in name:
        return 0.5 * draw
    if len(shape) >= 2:
        return draw * float(np.sqrt(1.2 / np.prod(shape[1:])))
    if kind == 'weight':
        return 1.0 + 0.1 * draw
    return 0.05 * draw


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


class _Draws:
    """Float32 tensors drawn in order from one numpy generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.RandomState(seed)

    def normal(self, *shape: int) -> Tensor:
        return _tensor(self.rng.standard_normal(shape))

    def uniform(self, *shape: int) -> Tensor:
        return _tensor(self.rng.random_sample(shape))

    def teacher_maps(self, batch_size: int) -> list[Tensor | None]:
        """The teacher's six levels; the first two are never read."""
        return [None, None, *(self.normal(batch_size, *shape).relu() for shape in TEACHER_MAP_SHAPES)]

    def beta(self, batch_size: int) -> Tensor:
        return self.uniform(batch_size, 2) * 4 + 1.1


def deterministic_batch(
    seed: int,
    batch_size: int = 1,
    frames: int = 2,
    height: int = 128,
    width: int = 256,
    num_points: int = 6000,
) -> dict[str, Any]:
    """Make one training batch in the official format.

    Args:
        seed: Seed of the batch.
        batch_size: Samples B.
        frames: Frames T, the key frame last.
        height: Image rows H.
        width: Image columns W.
        num_points: LiDAR points P per sample.

    Returns:
        The official training batch: ``img`` (B,T,4,3,H,W), ``points`` (B,1,P,5),
        ``depth`` and ``seg`` (B,4,H,W), targets, and ``img_metas`` (B lists of T
        dicts with the camera matrices).
    """
    draws = _Draws(seed)
    b = batch_size
    batch: dict[str, Any] = {'img': draws.normal(b, frames, NUM_CAMERAS, 3, height, width)}
    batch['points'] = _points(draws, b, num_points)
    batch['depth'] = draws.uniform(b, NUM_CAMERAS, height, width) * 60
    batch['seg'] = _tensor(draws.rng.randint(0, 12, (b, NUM_CAMERAS, height, width)))
    batch['waypoints'] = torch.cumsum(draws.uniform(b, NUM_STEPS, 2) * torch.tensor([3.0, 0.6]), 1)
    batch['target_point'] = draws.uniform(b, 2) * 20 - torch.tensor([0.0, 10.0])
    command = torch.from_numpy(draws.rng.randint(0, NUM_COMMANDS, (b,)))
    batch['target_command_raw'] = command
    batch['target_command'] = torch.nn.functional.one_hot(command, NUM_COMMANDS)
    _add_teacher_targets(batch, draws, b)
    batch['img_metas'] = [_queue_metas(draws, frames, height, width) for _ in range(b)]
    return batch


def _points(draws: _Draws, batch_size: int, num_points: int) -> Tensor:
    size = np.array([38.4, 38.4, 4.5, 1.0, 1.0])
    lower = np.array([-8.0, -19.2, -0.5, 0.0, 0.0])
    points = draws.rng.random_sample((batch_size, 1, num_points, 5)) * size + lower
    points[..., 4] = np.where(points[..., 4] > 0.5, -1.0, -0.0)
    return _tensor(points)


def _add_teacher_targets(batch: dict[str, Any], draws: _Draws, b: int) -> None:
    steps = range(NUM_STEPS)
    batch['speed'] = draws.uniform(b) * 8
    batch['future_speed'] = [draws.uniform(b) * 8 for _ in steps]
    batch['value'] = draws.normal(b)
    batch['future_value'] = [draws.normal(b) for _ in steps]
    batch['feature'] = draws.normal(b, 256).relu()
    batch['future_feature'] = [draws.normal(b, 256).relu() for _ in steps]
    batch['grid_feature'] = draws.teacher_maps(b)
    batch['future_grid_feature'] = [draws.teacher_maps(b) for _ in steps]
    batch['action_mu'] = draws.beta(b)
    batch['action_sigma'] = draws.beta(b)
    batch['future_action_mu'] = [draws.beta(b) for _ in steps]
    batch['future_action_sigma'] = [draws.beta(b) for _ in steps]


def _queue_metas(draws: _Draws, frames: int, height: int, width: int) -> list[dict[str, Tensor]]:
    """Camera matrices of one sample, with ego motion and one augmentation for all its frames."""
    ida = _image_augmentation(draws.rng, height, width)
    angle = draws.rng.uniform(-0.1, 0.1)
    step = draws.rng.uniform(0.0, 4.0)
    intrinsics4 = np.eye(4)
    intrinsics4[:3, :3] = INTRINSICS
    ego2cam = _tensor(EGO2CAM)
    metas = []
    for frame in range(frames):
        curr2key = np.eye(4)
        if frame < frames - 1:
            cos, sin = np.cos(angle), np.sin(angle)
            curr2key[:2, :2] = [[cos, sin], [-sin, cos]]
            curr2key[0, 3] = step
        metas.append(
            {
                'cam_intrinsic': _tensor(np.tile(INTRINSICS, (NUM_CAMERAS, 1, 1))),
                'ida_mats': _tensor(ida),
                'lidar2cam': ego2cam,
                'lidar2img': _tensor(intrinsics4 @ EGO2CAM),
                'curr2key': _tensor(curr2key),
                'currlidar2keycam': ego2cam @ _tensor(curr2key),
            }
        )
    return metas


def _image_augmentation(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Resize, crop and flip of each camera: (N,4,4), raw pixel to final pixel."""
    row_ratio, column_ratio = height / PAPER_SIZE[0], width / PAPER_SIZE[1]
    scale = rng.uniform(*RESIZE_RANGE, NUM_CAMERAS)
    ida = np.tile(np.eye(4), (NUM_CAMERAS, 1, 1))
    # scale * W / 896, not scale * (W / 896): the rounding is part of the values
    ida[:, 0, 0] = scale * width / PAPER_SIZE[1]
    ida[:, 1, 1] = scale * height / PAPER_SIZE[0]
    free_columns = scale * RAW_SIZE[1] - PAPER_SIZE[1]
    ida[:, 0, 3] = -free_columns * rng.random_sample(NUM_CAMERAS) * column_ratio
    ida[:, 1, 3] = -(scale * RAW_SIZE[0] - PAPER_SIZE[0]) * row_ratio
    flipped = rng.random_sample(NUM_CAMERAS) < 0.5
    ida[flipped, 0, 0] *= -1
    ida[flipped, 0, 3] = width - ida[flipped, 0, 3]
    return ida
