"""Geometry of lifting, against plain numpy: a point of the world, seen by a camera, lands in its own cell."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from helpers.small_encoders import camera_encoder, camera_rig
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinktwice.geometry.bev_grid import to_teacher_orientation
from thinktwice.model_code.backbones.view_transform import LiftSplat

GRID = {'x_bounds': (-8.0, 30.4, 1.8285), 'y_bounds': (-19.2, 19.2, 1.8285), 'z_bounds': (-4.0, 10.0, 14.0)}
DEPTH_BOUNDS = (1.0, 41.0, 0.5)
IMAGE_SIZE, MAP_SIZE = (64, 128), (4, 8)
INTRINSICS = np.array([[40.0, 0, 63.0], [0, 35.0, 33.0], [0, 0, 1]])


def pose(x, y, yaw):
    """Ego to world, x forward and y right: yaw turns x toward y."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


def augmentation(scale, left, top, flip):
    """Raw pixel to network pixel."""
    ida = np.diag([scale, scale, 1.0, 1.0])
    ida[0, 3], ida[1, 3] = -left, -top
    if flip:
        ida[0] = -ida[0]
        ida[0, 3] += IMAGE_SIZE[1] - 1
    return ida


def expected_cell(point):
    """Row and column in teacher orientation, from the definition of the grid."""
    x, y = math.floor((point[0] + 8) / 1.8285), math.floor((point[1] + 19.2) / 1.8285)
    inside = 0 <= x < 21 and 0 <= y < 21 and -4 <= point[2] < 10
    return (20 - x, y) if inside else None


def near_border(point, margin=1e-3):
    shares = ((point[0] + 8) / 1.8285, (point[1] + 19.2) / 1.8285, (point[2] + 4) / 14)
    return any(abs(share - round(share)) < margin for share in shares)


def world_point(pixel, depth, ida, cam2ego, ego2world):
    """Place of a network pixel at a depth, by solving the projection in float64."""
    raw = np.linalg.solve(ida[:2, :2], np.array(pixel) - ida[:2, 3])
    camera = np.linalg.solve(INTRINSICS, np.array([raw[0], raw[1], 1.0])) * depth
    return ego2world @ cam2ego @ np.append(camera, 1.0)


@lru_cache(maxsize=1)
def paper_grid_encoder():
    lift = {'type': 'LiftSplat', 'bev_grid': GRID, 'depth_bounds': DEPTH_BOUNDS}
    return camera_encoder(view_transform=lift)


def as_batch(matrix):
    return torch.tensor(matrix, dtype=torch.float32)[None, None]


poses = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-0.5, 0.5))


@settings(max_examples=60)
@given(
    camera=st.integers(0, 3),
    column=st.integers(0, 7),
    row=st.integers(0, 3),
    depth_bin=st.integers(0, 79),
    history=poses,
    scale=st.floats(0.8, 1.3),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    flip=st.booleans(),
)
def test_one_hot_depth_lands_in_the_cell_of_the_true_point(
    camera, column, row, depth_bin, history, scale, shift, flip
):
    key_pose, history_pose = pose(5.0, -2.0, 0.7), pose(5.0, -2.0, 0.7) @ pose(*history)
    cam2ego = camera_rig()[camera].double().numpy()
    ida = augmentation(scale, *shift, flip)
    pixel = 16 * column + 7.5, 16 * row + 7.5  # middle of the 16-pixel cell
    depth = 1.25 + 0.5 * depth_bin  # middle of the half-meter bin

    frame2key = torch.tensor(np.stack([np.linalg.inv(key_pose) @ history_pose, np.eye(4)]))[None].float()
    encoder = paper_grid_encoder()
    for t, ego2world in enumerate((history_pose, key_pose)):
        point = np.linalg.inv(key_pose) @ world_point(pixel, depth, ida, cam2ego, ego2world)
        assume(not near_border(point))
        cameras = encoder.frame_cameras(
            torch.tensor(INTRINSICS).float().expand(1, 2, 1, 3, 3),
            torch.tensor(cam2ego).float().expand(1, 2, 1, 4, 4),
            frame2key,
            torch.tensor(ida).float().expand(1, 2, 1, 4, 4),
            t,
        )
        weights = torch.zeros(1, 1, 80, *MAP_SIZE)
        weights[0, 0, depth_bin, row, column] = 1
        matrices = cameras.intrinsics, cameras.cam2key, cameras.ida_mats
        bev = encoder.view_transform(weights, torch.ones(1, 1, 1, *MAP_SIZE), *matrices, IMAGE_SIZE)
        lit = [tuple(cell) for cell in encoder.orient(bev)[0, 0].nonzero().tolist()]
        cell = expected_cell(point)
        assert lit == ([cell] if cell else [])


@settings(max_examples=40)
@given(x=st.floats(3, 25), y=st.floats(-4, 4), z=st.floats(0, 3), history=poses, flip=st.booleans())
def test_a_static_point_seen_from_two_poses_lifts_to_one_place(x, y, z, history, flip):
    """Project the point into both frames, and lift the very cells and bins that show it."""
    history2key = pose(*history)
    cam2ego = camera_rig()[0].double().numpy()
    ida = augmentation(1.0, 0.0, 0.0, flip)
    lift = LiftSplat(GRID, DEPTH_BOUNDS)
    for ego2key in (np.eye(4), history2key):
        camera = np.linalg.inv(ego2key @ cam2ego) @ np.array([x, y, z, 1.0])
        assume(1.0 < camera[2] < 41.0)
        raw = (INTRINSICS @ (camera[:3] / camera[2]))[:2]
        u, v = ida[:2, :2] @ raw + ida[:2, 3]
        column, row = math.floor((u + 0.5) / 16), math.floor((v + 0.5) / 16)
        assume(0 <= column < 8 and 0 <= row < 4)
        lifted = lift.lift(
            as_batch(INTRINSICS), as_batch(ego2key @ cam2ego), as_batch(ida), IMAGE_SIZE, MAP_SIZE
        )[0, 0, math.floor((camera[2] - 1.0) / 0.5), row, column].numpy()
        # half a bin along the axis; half a cell of 16 pixels across, and the ray's slope within the bin
        within = 0.25 + (8.0 / 35.0) * (camera[2] + 0.25) * 2**0.5 + 0.25 * 2.5
        assert np.linalg.norm(lifted - [x, y, z]) < within


def test_lifted_points_project_back_onto_pixel_and_depth():
    lift = LiftSplat(GRID, DEPTH_BOUNDS)
    rig = camera_rig()
    ida = torch.tensor(augmentation(1.1, 3.0, -5.0, True)).float()
    batch = (torch.tensor(INTRINSICS).float(), rig, ida)
    intrinsics, cam2key, ida_mats = (m.expand(2, 4, *m.shape[-2:]) for m in batch)
    points = lift.lift(intrinsics, cam2key, ida_mats, IMAGE_SIZE, MAP_SIZE)
    assert points.shape == (2, 4, 80, 4, 8, 3)
    for camera in range(4):
        flat = points[1, camera].reshape(-1, 3).double().numpy()
        local = np.linalg.inv(rig[camera].double().numpy()) @ np.c_[flat, np.ones(len(flat))].T
        raw = (INTRINSICS @ (local[:3] / local[2]))[:2]
        pixels = (ida[:2, :2].numpy() @ raw + ida[:2, 3:].numpy()).reshape(2, 80, 4, 8)
        assert np.abs(pixels[0] - (16 * np.arange(8) + 7.5)).max() < 1e-2
        assert np.abs(pixels[1] - (16 * np.arange(4)[:, None] + 7.5)).max() < 1e-2
        depths = local[2].reshape(80, -1)
        assert np.abs(depths - (1.25 + 0.5 * np.arange(80))[:, None]).max() < 1e-4


def test_pooling_equals_the_written_out_outer_product():
    lift = LiftSplat({**GRID, 'x_bounds': (0.0, 20.0, 4.0)}, (1.0, 13.0, 2.0))
    B, N, C = 2, 3, 5
    depth = torch.rand(B, N, lift.num_bins, *MAP_SIZE, dtype=torch.float32)
    features = torch.randn(B, N, C, *MAP_SIZE)
    cameras = (torch.tensor(INTRINSICS).float().expand(B, N, 3, 3), camera_rig(3).expand(B, N, 4, 4))
    ida = torch.eye(4).expand(B, N, 4, 4)
    out = lift(depth, features, *cameras, ida, IMAGE_SIZE)
    assert out.shape == (B, C, 21, 5)
    cells = lift.bev_grid.cell_index(lift.lift(*cameras, ida, IMAGE_SIZE, MAP_SIZE))
    expected = torch.zeros(B, C, 21 * 5)
    volume = depth[:, :, None] * features[:, :, :, None]
    for b, n, d, i, j in np.ndindex(*cells.shape):
        if cells[b, n, d, i, j] >= 0:
            expected[b, :, cells[b, n, d, i, j]] += volume[b, n, :, d, i, j]
    assert torch.allclose(out, expected.view(B, C, 21, 5), atol=1e-4)
    assert to_teacher_orientation(out).shape == (B, C, 5, 21)


def test_bins_are_lifted_in_their_middle():
    depths = LiftSplat(GRID, DEPTH_BOUNDS).depth_values
    assert depths[[0, 1, 79]].tolist() == pytest.approx([1.25, 1.75, 40.75])


def test_geometry_stays_exact_under_autocast():
    lift = LiftSplat(GRID, DEPTH_BOUNDS)
    depth, features = torch.rand(1, 1, 80, *MAP_SIZE), torch.randn(1, 1, 4, *MAP_SIZE)
    cameras = (as_batch(INTRINSICS), camera_rig(1)[None], torch.eye(4)[None, None])
    expected = lift(depth, features, *cameras, IMAGE_SIZE)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(lift(depth, features, *cameras, IMAGE_SIZE), expected)


@pytest.mark.parametrize('bounds', [(1.0, 1.0, 0.5), (1.0, 41.0, 0.0), (41.0, 1.0, 0.5)])
def test_empty_depth_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match='depth_bounds'):
        LiftSplat(GRID, bounds)
