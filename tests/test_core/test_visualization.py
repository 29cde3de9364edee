"""Pictures show things where they are."""

import cv2
import numpy as np
import pytest
import torch

from thinktwice.core.visualization import BEVCanvas, colors, draw_sample, project, save_picture

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
        metas=dict(sample_id='town01_00/route/0003'),
    )


def test_picture_holds_both_plans_in_cameras_and_birds_eye_view(tmp_path):
    sample = make_sample()
    prediction = dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]]))
    picture = draw_sample(sample, prediction)
    mosaic, bev = picture[44:, : 2 * 448], picture[44:, 2 * 448 :]
    for color in (colors.TRUE, colors.PREDICTED):
        assert (mosaic == color).all(axis=-1).any()
        assert (np.abs(bev.astype(int) - color).sum(axis=-1) < 30).any()
    path = tmp_path / 'folder' / 'picture.png'
    save_picture(picture, path)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], picture)


def test_sample_without_labels_is_drawn_too():
    sample = make_sample()
    del sample['targets']
    picture = draw_sample(sample, dict(waypoints=torch.tensor([[12.0, 3.0], [16.0, 6.0]])))
    assert not (picture[44:, : 2 * 448] == colors.TRUE).all(axis=-1).any()
