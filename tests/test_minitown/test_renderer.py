"""Pictures against geometry computed another way."""

import cv2
import numpy as np
import pytest
from helpers.solid_shapes import random_shapes, shape_in_ego, surface_distance, unproject

from thinktwice.minitown import (
    BOX,
    CARLA_CAMERAS,
    ELLIPSOID,
    CameraRig,
    PrimitiveBuilder,
    Renderer,
    Scene,
    Sensors,
    make_calibration,
)
from thinktwice.minitown.world.classes import GREEN, RED, SKY, TERRAIN, TRAFFIC_LIGHT, YELLOW
from thinktwice.minitown.world.primitives import LIGHT_HEAD

RIG = CameraRig((60, 100))
ROAD = 7


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_unprojected_pixels_lie_on_shapes_of_their_class_and_nothing_stands_before_them(seed):
    shapes = random_shapes(seed)
    pose = (2.0, -1.0, 0.7 * seed)
    views = Renderer(RIG).render(Scene(shapes), pose)
    calibration = make_calibration(Sensors(RIG))
    seen = set()
    for view, camera in zip(views, calibration['cameras'], strict=True):
        points = unproject(view.depth, camera['intrinsics'], camera['cam2ego']).reshape(-1, 3)
        origin = np.array(camera['cam2ego'])[:3, 3]
        classes = view.classes.reshape(-1)
        touching = np.full(len(points), np.inf)
        for index in range(len(shapes)):
            shape = shape_in_ego(shapes, index, pose)
            distance = surface_distance(points, *shape)
            same = classes == shapes.class_id[index]
            touching = np.where(same, np.minimum(touching, np.abs(distance)), touching)
            for share in (0.25, 0.5, 0.75, 0.9, 0.97):
                before = origin + share * (points - origin)
                assert surface_distance(before, *shape).min() > -1e-6
        is_shape = classes >= 30
        assert touching[is_shape].max() < 1e-6
        assert np.abs(points[classes == ROAD, 2]).max() < 1e-6
        assert (view.depth[view.classes == SKY] == 1000.0).all()
        assert set(np.unique(classes)) <= {30, 31, 32, ROAD, SKY, TERRAIN}
        seen |= set(np.unique(classes))
    assert {30, 31, 32, ROAD, SKY} <= seen


def test_face_of_a_box_has_the_exact_depth_and_outline():
    builder = PrimitiveBuilder()
    builder.add(BOX, (12.0, 1.0, 2.0), (2.0, 1.5, 1.0), 10, (200, 10, 10))
    view = Renderer(RIG).render(Scene(builder.build()), (0.0, 0.0, 0.0))[0]
    fx, fy, cx, cy = RIG.intrinsics
    face = 10.0 - 1.5
    v, u = np.mgrid[:60, :100]
    y, z = (u - cx) / fx * face, 2.5 - (v - cy) / fy * face
    inside = (np.abs(y - 1.0) < 1.5) & (np.abs(z - 2.0) < 1.0)
    np.testing.assert_allclose(view.depth[inside], face, rtol=1e-12)
    assert (view.classes[inside] == 10).all()
    assert inside.sum() > 50
    # Beyond the face only the left side and the top can be seen, both farther away.
    others = (view.classes == 10) & ~inside
    assert (view.depth[others] > face).all()


def test_each_camera_looks_its_own_way():
    builder = PrimitiveBuilder()
    for class_id, (x, y) in ((30, (20, 0)), (31, (0, -20)), (32, (0, 20)), (33, (-20, 0))):
        builder.add(ELLIPSOID, (x, y, 2.5), (1.0, 1.0, 1.0), class_id, (9, 9, 9))
    views = Renderer(RIG).render(Scene(builder.build()), (0.0, 0.0, 0.0))
    for view, camera, expected in zip(views, CARLA_CAMERAS, (30, 31, 32, 33), strict=True):
        assert view.classes[30, 50] == expected, camera.name


def test_a_wall_that_passes_the_camera_is_drawn_up_to_the_picture_edge():
    builder = PrimitiveBuilder()
    builder.add(BOX, (0.0, 4.0, 3.0), (30.0, 0.5, 3.0), 1, (150, 150, 150))
    view = Renderer(RIG).render(Scene(builder.build()), (0.0, 0.0, 0.0))[0]
    assert (view.classes[20:40, -1] == 1).all()
    right = view.depth[30, -1]
    fx, _, cx, _ = RIG.intrinsics
    assert right == pytest.approx(3.5 / ((99 - cx) / fx))


def light_verdict(view) -> str:
    """Color of the biggest light by the rule of the 2023 labels: saturated, bright pixels by hue."""
    count, components = cv2.connectedComponents((view.classes == TRAFFIC_LIGHT).astype(np.uint8))
    sizes = [(components == index).sum() for index in range(1, count)]
    region = components == 1 + int(np.argmax(sizes))
    assert region.sum() >= 20
    hue, saturation, value = cv2.cvtColor(view.rgb, cv2.COLOR_RGB2HSV)[region].astype(int).T
    strong = (saturation >= int(1.1 * int(saturation.mean()))) & (value >= 140)
    red, green = (strong & (hue >= 150)).sum(), (strong & (hue >= 70) & (hue <= 100)).sum()
    if max(red, green) < 3:
        return 'undecided'
    return 'red' if red >= green else 'green'


@pytest.mark.parametrize('size', [(90, 160), (225, 400)])
@pytest.mark.parametrize(('state', 'verdict'), [(RED, 'red'), (GREEN, 'green'), (YELLOW, 'undecided')])
def test_color_of_a_light_is_found_by_the_label_rule(state, verdict, size):
    builder = PrimitiveBuilder()
    builder.add(BOX, (18, 3, 4.3), (0.25, 0.45, 1.05), TRAFFIC_LIGHT, (34, 36, 36), np.pi, LIGHT_HEAD, state)
    view = Renderer(CameraRig(size)).render(Scene(builder.build()), (0.0, 0.0, 0.0))[0]
    assert light_verdict(view) == verdict
