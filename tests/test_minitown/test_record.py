"""Recorded files: their format, and that they tell of one world."""

import json
import pickle

import cv2
import numpy as np
import pytest
from helpers.solid_shapes import unproject

from thinktwice.datasets.labels import KEPT_IDS
from thinktwice.minitown import CameraRig, Drive, Sensors, record
from thinktwice.minitown.recording.dataset import DEFAULT_TOWNS, plan_routes
from thinktwice.minitown.world.classes import ROAD, ROAD_LINE, SIDEWALK, SKY, TERRAIN, VEHICLE

FRAMES = 10
REAR_AXLE = 1.4178275
SIZE = (90, 160)
CAMERAS = ('front', 'left', 'right', 'back')
TRAIN_TOWNS, VAL_TOWNS = ('town01', 'town03', 'town04', 'town06'), ('town02', 'town05')


def read_png(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


def read_depth(path):
    red, green, blue = np.moveaxis(read_png(path).astype(np.int64), -1, 0)
    return (red + 256 * green + 65536 * blue) / (256**3 - 1) * 1000


def read_json(path):
    return json.loads(path.read_text())


def read_supervision(path):
    return np.load(path, allow_pickle=True).item()


def test_every_modality_has_every_frame_and_nothing_else(route_folders):
    assert len(route_folders) == 2
    expected = {'bev', 'bev_seg_label', 'supervision', '3d_bbs', 'measurements', 'lidar'}
    expected |= {f'{kind}_{camera}' for kind in ('rgb', 'depth', 'seg') for camera in CAMERAS}
    for route in route_folders:
        assert {path.name for path in route.iterdir()} == expected
        for folder in route.iterdir():
            names = sorted(path.stem for path in folder.iterdir())
            assert names == [f'{frame:04d}' for frame in range(FRAMES)]


def test_files_have_the_documented_shapes(route_folders):
    route = route_folders[0]
    for camera in CAMERAS:
        assert read_png(route / f'rgb_{camera}' / '0000.png').shape == (*SIZE, 3)
        assert read_png(route / f'depth_{camera}' / '0000.png').shape == (*SIZE, 3)
        seg = read_png(route / f'seg_{camera}' / '0000.png')
        assert (seg.shape, seg.dtype) == (SIZE, np.uint8)
    points = np.load(route / 'lidar/0000.npy', allow_pickle=False)
    assert points.dtype == np.float32
    assert points.shape[1] == 4
    assert 10_000 < len(points) < 60_000
    assert read_png(route / 'bev/0000.png').shape == (192, 384, 3)
    masks = np.load(route / 'bev_seg_label/0000.npy', allow_pickle=False)
    assert (masks.shape, masks.dtype) == ((15, 192, 192), np.float32)
    assert 0 < masks.max() <= 1
    raw = np.load(route / 'supervision/0000.npy', allow_pickle=True)
    assert (raw.shape, raw.dtype) == ((), object)
    supervision = raw.item()
    assert [level.shape for level in supervision['cnn_features']] == [
        (8, 94, 94), (16, 45, 45), (32, 21, 21), (64, 10, 10), (128, 4, 4), (256, 2, 2),
    ]  # fmt: skip
    shapes = {'action': (3,), 'action_mu': (2,), 'action_sigma': (2,), 'features': (256,), 'target_gps': (3,)}
    for key, shape in shapes.items():
        assert (supervision[key].shape, supervision[key].dtype) == (shape, np.float32), key
    assert isinstance(supervision['value'], np.float32)
    assert isinstance(supervision['speed'], float)
    assert (supervision['target_command'].shape, supervision['target_command'].dtype) == ((1,), np.int8)
    assert type(supervision['should_brake']) is type(supervision['only_ap_brake']) is bool
    keys = {'value', 'cnn_features', 'speed', 'target_command', 'should_brake', 'only_ap_brake', *shapes}
    assert set(supervision) == keys


def test_measurements_have_the_documented_keys_without_nan(route_folders):
    for route in route_folders:
        for path in sorted((route / 'measurements').iterdir()):
            values = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
            numbers = ['x', 'y', 'theta', 'speed', 'x_target', 'y_target']
            numbers += [f'{axis}_command_{reach}' for axis in 'xy' for reach in ('far', 'near')]
            assert all(isinstance(values[name], float) for name in numbers)
            commands = [values[name] for name in ('target_command', 'command_far', 'command_near')]
            assert all(command in (-1, 1, 2, 3, 4, 5, 6) for command in commands)
            assert 0 <= values['theta'] < 2 * np.pi
            assert len(values['acceleration']) == len(values['angular_velocity']) == 3
            assert len(values['weather']) == 10
            assert isinstance(values['should_brake'], bool)


def ego_points(values, others):
    """World places of `others` in the ego frame of `values`, by the documented formulas."""
    yaw = values['theta'] - np.pi / 2
    rotation = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    return [rotation @ (np.array([y, -x]) - (values['y'], -values['x'])) for x, y in others]


def test_positions_headings_and_speeds_agree(route_folders):
    for route in route_folders:
        frames = [read_json(path) for path in sorted((route / 'measurements').iterdir())]
        for now, then in zip(frames, frames[1:], strict=False):
            ahead, aside = ego_points(now, [(then['x'], then['y'])])[0]
            assert np.hypot(ahead, aside) == pytest.approx(0.25 * (now['speed'] + then['speed']), abs=0.4)
            turn = (then['theta'] - now['theta'] + np.pi) % (2 * np.pi) - np.pi
            # The rear axle follows the heading: in a right turn (theta grows) it ends on the right.
            rear = (
                np.array([ahead, aside]) - REAR_AXLE * np.array([np.cos(turn), np.sin(turn)]) + (REAR_AXLE, 0)
            )
            if rear[0] > 1.0:
                assert np.arctan2(rear[1], rear[0]) == pytest.approx(turn / 2, abs=0.04)
        assert max(frame['speed'] for frame in frames) > 1.0


def test_target_points_lie_on_the_road_ahead(route_folders):
    for route in route_folders:
        for path in sorted((route / 'measurements').iterdir()):
            values = read_json(path)
            target = ego_points(values, [(values['x_target'], values['y_target'])])[0]
            assert target[0] > -0.5
            assert 2.0 < np.hypot(*target) < 75.0


def test_pixels_unprojected_with_the_stored_calibration_fit_their_class(recording, route_folders):
    calibration = read_json(recording / 'calibration.json')
    vehicle_pixels = 0
    for route in route_folders:
        for frame in (0, 5, 9):
            actors = read_json(route / f'3d_bbs/{frame:04d}.json')
            for camera in calibration['cameras']:
                depth = read_depth(route / camera['depth'] / f'{frame:04d}.png')
                seg = read_png(route / camera['seg'] / f'{frame:04d}.png')
                points = unproject(depth, camera['intrinsics'], camera['cam2ego'])
                assert (depth[seg == SKY] == 1000).all()
                # One step of the depth code is 6e-5 m along the axis.
                flat = np.isin(seg, (ROAD, ROAD_LINE, SIDEWALK, TERRAIN)) & (depth < 100)
                assert np.abs(points[flat][:, 2]).max() < 1e-3
                others = ~np.isin(seg, (ROAD, ROAD_LINE, SIDEWALK, TERRAIN, SKY))
                assert (points[others][:, 2] > -1e-3).all()
                near = (seg == VEHICLE) & (np.hypot(points[..., 0], points[..., 1]) < 40)
                vehicle_pixels += near.sum()
                if near.any():
                    assert inside_a_box(points[near], actors, 'vehicle').all()
    assert vehicle_pixels > 50


def inside_a_box(points, actors, kind):
    """Which ego points (N, 3) lie in the box of a recorded actor of a kind."""
    inside = np.zeros(len(points), dtype=bool)
    for actor in actors.values():
        if actor['class'] != kind:
            continue
        yaw, (x, y, _) = actor['relative_rotation'][2], actor['relative_position']
        dx, dy = points[:, 0] - x, points[:, 1] - y
        along, aside = np.cos(yaw) * dx + np.sin(yaw) * dy, -np.sin(yaw) * dx + np.cos(yaw) * dy
        length, width, height = actor['extent']
        fits = (np.abs(along) < length / 2 + 0.01) & (np.abs(aside) < width / 2 + 0.01)
        inside |= fits & (points[:, 2] < height + 0.01)
    return inside


def test_lidar_and_stored_depth_agree(recording, route_folders):
    calibration = read_json(recording / 'calibration.json')
    compared = 0
    for route in route_folders:
        points = np.load(route / 'lidar/0004.npy').astype(np.float64)
        for camera in calibration['cameras']:
            depth = read_depth(route / camera['depth'] / '0004.png')
            ego2cam = np.linalg.inv(camera['cam2ego'])
            seen = points[:, :3] @ ego2cam[:3, :3].T + ego2cam[:3, 3]
            seen = seen[(seen[:, 2] > 1) & (seen[:, 2] < 60)]
            fx, fy, cx, cy = camera['intrinsics']
            u = np.round(fx * seen[:, 0] / seen[:, 2] + cx).astype(int)
            v = np.round(fy * seen[:, 1] / seen[:, 2] + cy).astype(int)
            ok = (u > 0) & (u < SIZE[1] - 1) & (v > 0) & (v < SIZE[0] - 1)
            around = np.stack([depth[v[ok] + i, u[ok] + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
            z = seen[ok, 2]
            agrees = (z > around.min(0) * 0.97 - 0.1) & (z < around.max(0) * 1.03 + 0.1)
            assert agrees.mean() > 0.96
            compared += len(z)
    assert compared > 20_000


def test_actor_records_are_consistent(route_folders):
    counted = 0
    for path in sorted((route_folders[0] / '3d_bbs').iterdir()):
        actors = read_json(path)
        ego = np.array(actors['ego']['ego_matrix'])
        measurements = read_json(route_folders[0] / 'measurements' / path.name)
        np.testing.assert_allclose(ego[:2, 3], (measurements['y'], -measurements['x']))
        for name, actor in actors.items():
            matrix = np.array(actor['ego_matrix'])
            np.testing.assert_allclose(matrix @ np.array(actor['ego_inv_matrix']), np.eye(4), atol=1e-9)
            place = np.linalg.inv(ego) @ matrix[:, 3]
            np.testing.assert_allclose(place[:3], actor['relative_position'], atol=1e-9)
            assert actor['distance'] <= 50
            counted += name != 'ego' and actor['num_points'] > 0
    assert counted > 5


def test_actions_are_modes_of_their_distributions(route_folders):
    for route in route_folders:
        for path in sorted((route / 'supervision').iterdir()):
            record_ = read_supervision(path)
            throttle, steer, brake = record_['action']
            if record_['should_brake']:
                assert (throttle, brake) == (0, 1)
                continue
            alpha, beta = record_['action_mu'], record_['action_sigma']
            mode = 2 * (alpha - 1) / (alpha + beta - 2) - 1
            np.testing.assert_allclose(mode, [throttle - brake, steer], atol=1e-5)
            assert throttle == 0 or brake == 0
            speed = read_json(route / 'measurements' / f'{path.stem}.json')['speed']
            assert record_['speed'] == speed


def test_metadata_names_every_route_in_both_forms(recording, route_folders):
    metadata = read_json(recording / 'dataset_metadata.json')
    assert metadata['schema_version'] == 1
    listed = {f'{town}/{route}' for town, routes in metadata['towns'].items() for route in routes}
    assert listed == {f'{route.parent.name}/{route.name}' for route in route_folders}
    for routes in metadata['towns'].values():
        assert all(
            entry == {'frames': FRAMES, 'usable': FRAMES, 'rule': 'complete'} for entry in routes.values()
        )
    pickled = pickle.loads((recording / 'dataset_metadata.pkl').read_bytes())
    assert pickled == {
        town: {f'../{town}/{name}': FRAMES for name in routes} for town, routes in metadata['towns'].items()
    }


def test_calibration_is_the_rig_the_pictures_were_taken_with(recording):
    calibration = read_json(recording / 'calibration.json')
    assert calibration['image_size'] == list(SIZE)
    assert [camera['name'] for camera in calibration['cameras']] == list(CAMERAS)
    # Rows of ego -> camera for the left and the back camera, from the data format.
    rows = {
        'left': [[1, 0, 0, 0], [0, 0, -1, 2.5], [0, -1, 0, -0.3]],
        'back': [[0, -1, 0, 0], [0, 0, -1, 2.5], [-1, 0, 0, -1.6]],
    }
    for camera in calibration['cameras']:
        assert camera['distortion'] == [0] * 5
        assert camera['raw_intrinsics'] == camera['intrinsics']
        if camera['name'] in rows:
            ego2cam = np.linalg.inv(camera['cam2ego'])
            np.testing.assert_allclose(ego2cam[:3], rows[camera['name']], atol=1e-9)


@pytest.mark.parametrize('routes', [2, 3, 8, 24])
def test_default_towns_fill_training_and_validation(routes):
    names = [job.town for job in plan_routes(routes, 10, 0)]
    assert 'town01_00' in names
    assert any(name.startswith(TRAIN_TOWNS) for name in names)
    assert any(name.startswith(VAL_TOWNS) for name in names)
    if routes >= 4:
        assert any(name.endswith('_val') for name in names)
        assert sum(name.startswith(TRAIN_TOWNS) for name in names) > routes / 2
    assert len({(job.town, job.folder_name) for job in plan_routes(routes, 10, 0)}) == routes


def test_all_eight_maps_are_among_the_default_towns():
    assert {name[4:6] for name in DEFAULT_TOWNS} == {'01', '02', '03', '04', '05', '06', '07', '10'}


def test_all_kept_classes_are_seen_in_a_drive():
    drive, sensors = Drive('town01_00', 0, 0), Sensors(CameraRig(SIZE))
    seen: set[int] = set()
    for _ in range(30):
        views = sensors.observe(drive.scene(), drive.ego.pose).views
        seen |= {int(value) for view in views for value in np.unique(view.classes)}
        for _ in range(20):
            drive.step()
    assert set(KEPT_IDS) <= seen


def all_bytes(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_files_depend_on_the_seed_and_not_on_the_workers(tmp_path):
    settings = {'routes': 3, 'frames': 3, 'size': (45, 80), 'towns': ['town01_00', 'town04_val']}
    record(tmp_path / 'one', seed=5, **settings)
    record(tmp_path / 'two', seed=5, workers=2, **settings)
    record(tmp_path / 'other', seed=6, **settings)
    one, two, other = (all_bytes(tmp_path / name) for name in ('one', 'two', 'other'))
    assert one == two
    assert one.keys() == other.keys()
    changed = [name for name in one if one[name] != other[name]]
    assert {'lidar', 'measurements', 'rgb_front'} <= {name.split('/')[2] for name in changed if '/' in name}
