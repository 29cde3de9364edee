import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktwice.geometry.bev_grid import BEVGrid, from_teacher_orientation, to_teacher_orientation

PAPER = BEVGrid((-8.0, 30.4, 1.8285), (-19.2, 19.2, 1.8285), (-4.0, 10.0, 14.0))
OBLONG = BEVGrid((-4.0, 20.0, 2.0), (-9.0, 9.0, 1.0), (-2.0, 6.0, 4.0))


def occupied_cell(grid, point):
    """Row and column that light up in teacher orientation when one point is scattered."""
    counts = torch.zeros(grid.num_cells)
    index = grid.cell_index(torch.tensor(point))
    counts[index] = 1
    rotated = to_teacher_orientation(counts.view(grid.index_shape))
    return tuple(rotated.nonzero()[0].tolist())


def test_paper_grid_has_21_by_21_cells_and_one_layer():
    assert (PAPER.num_x, PAPER.num_y, PAPER.num_z) == (21, 21, 1)


@pytest.mark.parametrize(
    ('point', 'cell'),
    [((20.0, 10.0, 0.0), (5, 15)), ((29.0, 0.0, 0.0), (0, 10)), ((29.0, -18.0, 0.0), (0, 0)),
     ((0.0, 18.0, 0.0), (16, 20)), ((0.0, -18.0, 0.0), (16, 0))],
)  # fmt: skip
def test_left_is_column_zero_and_ahead_is_row_zero(point, cell):
    assert occupied_cell(PAPER, point) == cell


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-3.99, 19.99), y=st.floats(-8.99, 8.99), z=st.floats(-1.99, 5.99))
def test_every_point_inside_lands_in_the_cell_whose_center_is_nearest(x, y, z):
    row, column = occupied_cell(OBLONG, (x, y, z))
    center = OBLONG.cell_centers()[row, column]
    assert abs(center[0] - x) <= 1.0 + 1e-4
    assert abs(center[1] - y) <= 0.5 + 1e-4


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-60, 60), y=st.floats(-60, 60), z=st.floats(-60, 60))
def test_cell_index_agrees_with_python_floor_and_is_minus_one_outside(x, y, z):
    point = torch.tensor([x, y, z], dtype=torch.float64)
    cells = [math.floor((x + 4) / 2), math.floor((y + 9) / 1), math.floor((z + 2) / 4)]
    inside = 0 <= cells[0] < 12 and 0 <= cells[1] < 18 and 0 <= cells[2] < 2
    expected = cells[1] * 12 + cells[0] if inside else -1
    assert OBLONG.cell_index(point).item() == expected


def test_first_cell_does_not_collect_what_lies_below_the_range():
    below = torch.tensor([[-9.0, 0.0, 0.0], [0.0, -20.0, 0.0], [0.0, 0.0, -5.0]])
    assert PAPER.cell_index(below).tolist() == [-1, -1, -1]


def test_orientation_is_a_quarter_turn_of_an_oblong_map_and_inverts():
    index_map = torch.arange(2 * 18 * 12).view(2, 18, 12)
    turned = to_teacher_orientation(index_map)
    assert turned.shape == (2, 12, 18)
    for row, column in [(0, 0), (3, 7), (11, 17)]:
        assert torch.equal(turned[:, row, column], index_map[:, column, 12 - 1 - row])
    assert torch.equal(turned, torch.rot90(index_map, 1, dims=(-2, -1)))
    assert torch.equal(from_teacher_orientation(turned), index_map)


@settings(max_examples=50, deadline=None)
@given(row=st.integers(0, 11), column=st.integers(0, 17))
def test_continuous_coordinates_of_a_cell_center_are_the_middle_of_its_pixel(row, column):
    center = OBLONG.cell_centers()[row, column]
    width, height = OBLONG.teacher_coordinates(center).tolist()
    assert width * 18 == pytest.approx(column + 0.5, abs=1e-4)
    assert height * 12 == pytest.approx(row + 0.5, abs=1e-4)


@pytest.mark.parametrize('bounds', [(0.0, 10.0, 3.0), (5.0, 5.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0)])
def test_bad_bounds_are_named(bounds):
    with pytest.raises(ValueError, match='y_bounds'):
        BEVGrid((0.0, 1.0, 1.0), bounds, (0.0, 1.0, 1.0))
