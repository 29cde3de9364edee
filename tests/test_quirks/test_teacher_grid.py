"""The cells of the BEV map lie where those of the teacher's map of the same size are."""

import pytest
import torch
import torch.nn.functional as F

from thinktwice.config.load import load_config
from thinktwice.geometry.bev_grid import BEVGrid
from thinktwice.minitown.expert.teacher_view import ego_to_view

LAYERS = ((5, 2), (5, 2), (5, 2))  # kernel and stride of the teacher's layers up to the 21 x 21 map
SIZE = 192  # pixels of the masks


def cells_that_see(row: int, column: int) -> torch.Tensor:
    """Which cells of the teacher's map (21, 21) change with one pixel of the masks."""
    maps = torch.zeros(1, 1, SIZE, SIZE)
    maps[0, 0, row, column] = 1
    for kernel, stride in LAYERS:
        maps = F.conv2d(maps, torch.ones(1, 1, kernel, kernel), stride=stride)
    return maps[0, 0] > 0


def teacher_centers() -> torch.Tensor:
    """Center of what each cell of the teacher's map sees: x, y in ego meters, (21, 21, 2)."""
    seen = torch.stack([cells_that_see(pixel, pixel).any(dim=1) for pixel in range(SIZE)])  # pixel, row
    pixels = torch.arange(SIZE, dtype=torch.float64)[:, None]
    middles = (seen * pixels).sum(0) / seen.sum(0)  # rows and columns alike
    (column, row), (next_column, next_row) = ego_to_view(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).numpy())
    x = (middles - row) / (next_row - row)
    y = (middles - column) / (next_column - column)
    return torch.stack(torch.meshgrid(x, y, indexing='ij'), dim=-1)


@pytest.mark.parametrize(
    ('config', 'closest', 'farthest'),
    [('thinktwice', 0.0, 0.01), ('thinktwice_minitown', 0.0, 0.01), ('thinktwice_reference', 3.5, 3.6)],
)
def test_cells_are_where_those_of_the_teacher_are(config, closest, farthest):
    grid = BEVGrid(**load_config(f'configs/{config}.py').model.img_encoder.view_transform.bev_grid)
    distance = torch.linalg.vector_norm(grid.cell_centers() - teacher_centers(), dim=-1)
    assert distance.shape == (21, 21)
    assert closest <= distance.max() <= farthest
