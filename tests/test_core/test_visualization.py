"""Pictures show things where they are."""

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_dataset import equal
from torch import nn

from thinktwice.core.evaluation import OpenLoopMetric
from thinktwice.core.evaluation.metrics import sample_metrics
from thinktwice.core.visualization import (
    BEVCanvas,
    Movie,
    colors,
    draw_sample,
    project,
    record_sampling_points,
    save_picture,
)
from thinktwice.core.visualization import picture as picture_module
from thinktwice.core.visualization.cameras import attention_per_pixel, draw_attention
from thinktwice.core.visualization.data import color_depths
from thinktwice.core.visualization.picture import MARGIN, SIDE_WIDTH
from thinktwice.datasets import collate_samples, take_sample
from thinktwice.errors import WriteError
from thinktwice.model_code.dense_heads import LidarLook, LookContext
from thinktwice.model_code.dense_heads.deformable_attention import DeformableAttention
from thinktwice.model_code.dense_heads.image_tokens import ImageTokens

FRONT = np.array([[0, 0, 1, 1.5], [1, 0, 0, 0], [0, -1, 0, 2.5], [0, 0, 0, 1]], float)
INTRINSICS = np.array([[304.14395142, 0, 788.25758876], [0, 221.49429321, 449.78972161], [0, 0, 1]])


def test_projection_of_the_documented_point():
    """The data documentation's example: ego (10, 2, 1) in the front camera."""
    pixels, depth = project(np.array([[10.0, 2.0, 1.0]]), INTRINSICS, FRONT, np.eye(4))
    assert pixels[0] == pytest.approx([859.820871, 488.876950], abs=1e-3)
    assert depth[0] == pytest.approx(8.5)
    ida = np.diag([0.56, 0.56, 1, 1])
    ida[:2, 3] = -0.22, -56.22
    pixels, _ = project(np.array([[10.0, 2.0, 1.0]]), INTRINSICS, FRONT, ida)
    assert pixels[0] == pytest.approx([481.280, 217.551], abs=2e-3)


def test_forward_is_up_and_right_is_right_in_the_birds_eye_view():
    canvas = BEVCanvas(pixels_per_meter=10)
    origin, ahead, right = canvas.to_pixels(np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    assert (ahead - origin).tolist() == [0.0, -100.0]
    assert (right - origin).tolist() == [100.0, 0.0]


def make_sample() -> dict:
    rig = np.broadcast_to(FRONT, (1, 2, 4, 4))
    intrinsics = np.broadcast_to(np.array([[100.0, 0, 63.5], [0, 100, 31.5], [0, 0, 1]]), (1, 2, 3, 3))
    return dict(
        inputs=dict(
            img=torch.full((1, 2, 3, 64, 128), 90, dtype=torch.uint8),
            intrinsics=torch.tensor(intrinsics.copy()),
            cam2ego=torch.tensor(rig.copy()),
            ida_mats=torch.eye(4).expand(1, 2, 4, 4),
            points=torch.tensor([[5.0, 5.0, 0, 1, 0], [100.0, 0, 0, 1, 0]]),
            target_point=torch.tensor([60.0, 0.0]),
            speed=torch.tensor(4.0),
        ),
        targets=dict(waypoints=torch.tensor([[12.0, 0.0], [16.0, 0.0]])),
        metas=dict(sample_id='town01_00/route/0003', index=3),
    )


def split_picture(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The block of cameras, and the block of the bird's-eye view."""
    middle = picture.shape[1] - SIDE_WIDTH - MARGIN
    return picture[:, :middle], picture[:, middle:]


def test_picture_holds_both_plans_in_cameras_and_birds_eye_view(tmp_path):
    sample = make_sample()
    prediction = dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]]))
    picture = draw_sample(sample, prediction)
    for block in split_picture(picture):
        for color in (colors.TRUE, colors.PREDICTED):
            assert (block == color).all(axis=-1).sum() > 50
    path = tmp_path / 'folder' / 'picture.png'
    save_picture(picture, path)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], picture)


def test_sample_without_labels_is_drawn_too():
    sample = make_sample()
    del sample['targets']
    picture = draw_sample(sample, dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]])))
    assert not (picture == colors.TRUE).all(axis=-1).any()


def test_sample_with_labels_but_without_those_of_the_plan_is_drawn_too():
    sample = make_sample()
    sample['targets'] = dict(depth=torch.full((2, 64, 128), 8.0))
    picture = draw_sample(sample, dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]])))
    cameras, _ = split_picture(picture)
    assert (cameras == color_depths(np.array([8.0]))[0]).all(axis=-1).sum() > 10_000


def test_sample_without_sensors_is_drawn_from_above():
    sample = make_sample()
    sample['inputs'] = dict(speed=torch.tensor(4.0))
    picture = draw_sample(sample, dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]])))
    assert picture.shape[1] < SIDE_WIDTH + 2 * MARGIN + 10
    assert (picture == colors.PREDICTED).all(axis=-1).any()


def test_size_does_not_depend_on_the_values():
    """Frames of a video have one size."""
    sample, stages = make_sample(), torch.tensor([[[12.0, 3.0], [16.0, 6.0]]]).expand(3, 2, 2)
    replaced = {**sample, 'metas': dict(sample_id='another', index=4, requested_index=3)}  # has no errors
    sizes = {
        draw_sample(drawn, dict(waypoints=scale * stages[-1], waypoints_stages=scale * stages)).shape
        for drawn, scale in ((sample, 0.0), (sample, 5.0), (replaced, 1.0))
    }
    assert len(sizes) == 1


def test_stages_have_colors_from_coarse_to_final():
    assert colors.stage_colors(1) == [colors.PREDICTED]
    first, middle, last = colors.stage_colors(3)
    assert (first, last) == (colors.COARSE, colors.PREDICTED)
    assert 120 < middle[1] < 210


def test_errors_are_those_of_the_metrics():
    """The plan is 3 m and 6 m beside the expert's."""
    sample = make_sample()
    stages = torch.tensor([[[12.0, 4.0], [16.0, 8.0]], [[12.0, 3.0], [16.0, 6.0]]])
    errors = sample_metrics([OpenLoopMetric()], sample, dict(waypoints=stages[-1], waypoints_stages=stages))
    assert errors['open_loop/ade'] == pytest.approx(4.5)
    assert errors['open_loop/fde'] == pytest.approx(6.0)
    _, coarse, refined, offsets = picture_module._error_lines(errors, 2)
    assert coarse == ('coarse plan', '6.00 m', '8.00 m')
    assert refined == ('refined 1', '4.50 m', '6.00 m')
    assert '0.00 m longitudinal, 4.50 m lateral' in offsets[0]


def test_drawing_leaves_the_metrics_of_an_evaluation_alone():
    metric, sample = OpenLoopMetric(), make_sample()
    metric.results.append('of the evaluation')
    draw_sample(sample, dict(waypoints=sample['targets']['waypoints']), [metric])
    assert metric.results == ['of the evaluation']


def test_attention_is_bright_where_it_falls():
    image = np.full((50, 100, 3), 100, np.uint8)
    locations = np.array([[0.105, 0.51], [0.805, 0.51], [1.5, 0.5]])  # the last one is outside
    weights = np.array([1.0, 0.25, 9.0])
    total = attention_per_pixel((50, 100), locations, weights)
    assert np.unravel_index(total.argmax(), total.shape) == (25, 10)
    assert total.sum() == pytest.approx(1.25)
    assert total[25, 80] == pytest.approx(total[25, 10] / 4)
    drawn = draw_attention(image, locations, weights, total.max()).astype(int).sum(axis=-1)
    assert drawn[25, 10] > drawn[25, 80] > drawn[5, 50]


def test_plans_beyond_the_map_enlarge_it():
    assert picture_module._canvas_around(np.array([[5.0, 1.0]])).x_range == (-8.0, pytest.approx(30.4))
    far = picture_module._canvas_around(np.array([[55.0, 1.0]]))
    assert far.x_range == (-8.0, 62.0) and far.image.shape[:2] == (540, 540)
    assert picture_module._canvas_around(np.array([[np.nan, 1e9]])).x_range == (-8.0, 192.0)


def test_movie_holds_the_frames(tmp_path):
    movie = Movie(tmp_path / 'new folder' / 'movie.mp4', 2.0)
    for brightness in (0, 100, 200):
        movie.write(np.full((32, 64, 3), brightness, np.uint8))
    movie.close()
    file = cv2.VideoCapture(str(tmp_path / 'new folder' / 'movie.mp4'))
    frames = [file.read()[1] for _ in range(3)]
    assert file.get(cv2.CAP_PROP_FPS) == 2.0 and not file.read()[0]
    assert [round(float(frame.mean()), -1) for frame in frames] == [0, 100, 200]


def test_movie_that_lacks_frames_is_an_error(tmp_path):
    """As after a full disk."""
    movie = Movie(tmp_path / 'movie.mp4', 2.0)
    movie.write(np.zeros((32, 64, 3), np.uint8))
    movie._frames += 1
    with pytest.raises(WriteError, match='lacks frames'):
        movie.close()


def test_image_sampling_points_are_those_of_the_sample_and_of_the_first_call():
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, num_heads=2, num_points=3)
    model = nn.ModuleDict(dict(attention=attention))
    tokens = ImageTokens.from_levels([torch.randn(2, 3, 8, 5, 7), torch.randn(2, 3, 8, 3, 4)])
    cameras = torch.tensor([0, 2, 4, 5])  # of samples 0, 0, 1, 1
    references = torch.tensor([[0.5, 0.5], [0.2, 0.2], [0.3, 0.6], [0.9, 0.1]])
    rest = (cameras, tokens, torch.zeros(3, 8), torch.zeros(2, 8))
    with record_sampling_points(model) as record:
        attention(torch.randn(4, 8), references, *rest)
        attention(torch.randn(4, 8), torch.zeros(4, 2), *rest)
        points = record.of_sample(1)
    assert points.lidar is None
    assert points.cameras.tolist() == [1] * 12 + [2] * 12
    # the initial offsets are a ring: the mean of the heads on opposite sides is the reference
    for query, reference in enumerate(references[2:]):
        found = points.locations.view(2, 2, 2, 3, 2)[query]
        torch.testing.assert_close(found.mean(dim=(0, 1, 2)), reference)
        # the first point of the first head is one cell to the right, in maps that are 7 and 4 cells wide
        torch.testing.assert_close(found[0, :, 0, 0], reference[0] + torch.tensor([1 / 7, 1 / 4]))
    torch.testing.assert_close(points.weights, torch.full((24,), 1 / 6))
    assert not attention._forward_pre_hooks


def test_lidar_sampling_points_are_in_the_ego_frame_and_in_the_map():
    look = LidarLook(4, 2, (-8.0, 30.4), (-19.2, 19.2), 8, 3, 6)
    context = LookContext(
        images=None,
        lidar_map=torch.randn(2, 4, 8, 8),
        temporal_embedding=torch.zeros(1, 2),
        measurement=torch.zeros(2, 3),
        passes=1,
    )
    waypoints = torch.tensor([[[0.0, 0.0]], [[30.0, 0.0]]])
    with record_sampling_points(nn.Sequential(look)) as record:
        look(waypoints, torch.ones(2, 1, 4), context)
        points = [record.of_sample(index).lidar for index in range(2)]
    assert {(round(x, 2), round(y, 2)) for x, y in points[0].tolist()} == {
        (x, y) for x in (-3.84, 0.0, 3.84) for y in (-3.84, 0.0, 3.84)
    }
    assert points[1][:, 0].max().item() == pytest.approx(30.4)


def test_a_sample_of_a_batch_is_the_sample_that_was_collated():
    samples = []
    for index in range(2):
        inputs = dict(speed=torch.tensor(float(index)), points=torch.rand(3 + index, 5))
        targets = dict(grid_feature=[torch.rand(2, 3), torch.rand(4)])
        samples.append(dict(inputs=inputs, targets=targets, metas=dict(index=index)))
    batch = collate_samples(samples)
    for index, sample in enumerate(samples):
        assert equal(take_sample(batch, index), sample)
    assert 'targets' not in take_sample({**batch, 'targets': None}, 0)
