"""Rows M1, M2, M7, M13, M22, M23, M24 of docs/reference_quirks.md: right in the main line, wrong in 2023."""

import pytest
import torch
from helpers.small_encoders import DEPTH_BOUNDS, GRID, camera_encoder, image_batch

from thinktwice.geometry.bev_grid import BEVGrid
from thinktwice.model_code.backbones import LiftSplat
from thinktwice.model_code.backbones.camera_vector import camera_vector
from thinktwice.release_2023.model import ReferenceLiftSplat

TYPES = {True: ('LSSCameraEncoder', 'LiftSplat'), False: ('ReferenceLSSCameraEncoder', 'ReferenceLiftSplat')}
both = pytest.mark.parametrize('corrected', [True, False], ids=['corrected', '2023'])


def encoder(corrected):
    name, view_transform = TYPES[corrected]
    return camera_encoder(
        type=name, view_transform={'type': view_transform, 'bev_grid': GRID, 'depth_bounds': DEPTH_BOUNDS}
    ).eval()


def splat(corrected):
    return (LiftSplat if corrected else ReferenceLiftSplat)(GRID, DEPTH_BOUNDS)


def cameras_of(corrected, batch, frame):
    inputs = {key: value for key, value in batch.items() if key != 'img'}
    return encoder(corrected).frame_cameras(**inputs, t=frame)


@both
def test_rays_start_at_the_camera(corrected):  # M1
    batch = image_batch(batch=1)
    origin = cameras_of(corrected, batch, -1).cam2key[..., :3, 3]
    position = batch['cam2ego'][:, -1, :, :3, 3]
    assert torch.allclose(origin, position) == corrected
    # 2023 missed exactly the position
    assert torch.allclose(origin, torch.zeros(3)) != corrected


@both
def test_depth_network_is_told_where_the_camera_is(corrected):  # M1
    batch = image_batch(batch=1)
    cameras = cameras_of(corrected, batch, -1)
    vector = camera_vector(cameras.intrinsics, cameras.ida_mats, cameras.cam2ego)
    told = vector[..., [13, 17, 21]]
    assert torch.allclose(told, batch['cam2ego'][:, -1, :, :3, 3]) == corrected
    assert told.any() == corrected


@both
def test_ego_motion_moves_what_the_history_frame_saw(corrected):  # M2
    torch.manual_seed(0)
    net = encoder(corrected)
    batch = image_batch(batch=1)
    moved = {**batch, 'frame2key': batch['frame2key'].clone()}
    moved['frame2key'][:, 0, 0, 3] -= 6.0
    with torch.no_grad():
        changed = not torch.equal(net(**batch).bev, net(**moved).bev)
    assert changed == corrected


@both
def test_static_point_lifts_to_one_place_from_both_frames(corrected):  # M1, M2, M13
    batch = image_batch(batch=1)
    point = torch.tensor([12.0, 1.0, 0.5, 1.0])  # key ego frame, meters
    lifted = []
    for frame in (0, 1):
        cam2ego, frame2key = batch['cam2ego'][0, frame, 0], batch['frame2key'][0, frame]
        in_camera = torch.linalg.inv(frame2key @ cam2ego) @ point
        lifted.append((cameras_of(corrected, batch, frame).cam2key[0, 0] @ in_camera)[:3])
    same_place = torch.allclose(lifted[0], lifted[1], atol=1e-4)
    right_place = torch.allclose(lifted[1], point[:3], atol=1e-4)
    assert same_place == right_place == corrected


@both
@pytest.mark.parametrize(
    ('point', 'cell'), [((12.5, -6.0), (1, 1)), ((12.5, 6.0), (1, 7)), ((-5.0, 7.0), (10, 8))]
)
def test_map_is_oriented_as_the_teachers(corrected, point, cell):  # M7
    grid = BEVGrid(**GRID)
    index_map = torch.zeros(grid.num_cells)
    index_map[grid.cell_index(torch.tensor([*point, 0.0]))] = 1
    oriented = encoder(corrected).orient(index_map.view(1, 1, *grid.index_shape))[0, 0]
    row, column = divmod(int(oriented.argmax()), grid.num_y)
    assert row == cell[0]
    # row 0 farthest ahead, column 0 left; 2023 has the mirror image
    assert column == (cell[1] if corrected else grid.num_y - 1 - cell[1])


def test_map_of_2023_at_the_published_places():
    net = encoder(corrected=False)
    for (x, y), place in {(29, 0): (0, 10), (29, 18): (0, 0), (0, 18): (16, 0), (0, -18): (16, 20)}.items():
        index_map = torch.zeros(1, 1, 21, 21)
        index_map[0, 0, int((y + 19.2) / 1.8285), int((x + 8) / 1.8285)] = 1
        assert divmod(int(net.orient(index_map).argmax()), 21) == place


@both
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_what_lies_below_the_range_has_no_cell(corrected, axis):  # M22
    grid = splat(corrected).bev_grid
    point = torch.tensor([0.5, 0.5, 0.5])
    assert grid.cell_index(point) >= 0
    point[axis] = grid.lower[axis] - 0.4 * grid.cell_size[axis]
    assert (grid.cell_index(point) == -1) == corrected
    point[axis] = grid.lower[axis] - 1.1 * grid.cell_size[axis]
    assert grid.cell_index(point) == -1


@both
def test_rays_go_through_the_centers_of_the_lifted_cells(corrected):  # M23
    columns, rows = splat(corrected).pixel_centers((64, 128), (4, 8))
    centers = 16 * torch.arange(8.0) + 7.5
    assert torch.allclose(columns, centers) == corrected
    assert torch.allclose(rows, centers[:4]) == corrected
    assert (columns - centers).abs().max() <= 7.5


@both
def test_depth_of_a_bin_is_right_on_average(corrected):  # M24
    lower, _, size = DEPTH_BOUNDS
    depths = lower + torch.rand(4000) * size * 10
    lifted = splat(corrected).bin_depths()[((depths - lower) / size).long()]
    bias = (lifted - depths).mean()
    assert (bias.abs() < 0.05 * size) == corrected
    if not corrected:
        assert bias == pytest.approx(-size / 2, abs=0.05 * size)
