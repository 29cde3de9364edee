"""The rig: the documented CARLA cameras, and checks on a rig of a stranger."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny_dataset import pipeline, write_dataset

from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.calibration import (
    calibration_to_dict,
    load_calibration,
    package_calibration,
    parse_calibration,
)
from thinktwice.datasets.storage import DatasetStorage, SampleReadError
from thinktwice.errors import ConfigError

# Rows 0 to 2 of ego-to-camera as documented.
EGO2CAM = {
    'front': ([0, 1, 0, 0], [0, 0, -1, 2.5], [1, 0, 0, -1.5]),
    'left': ([1, 0, 0, 0], [0, 0, -1, 2.5], [0, -1, 0, -0.3]),
    'right': ([-1, 0, 0, 0], [0, 0, -1, 2.5], [0, 1, 0, -0.3]),
    'back': ([0, -1, 0, 0], [0, 0, -1, 2.5], [-1, 0, 0, -1.6]),
}


def test_the_package_rig_is_the_documented_one() -> None:
    rig = package_calibration()
    assert [camera.name for camera in rig.cameras] == ['front', 'left', 'right', 'back']
    assert rig.image_size == rig.stored_size == (900, 1600)
    for camera in rig.cameras:
        np.testing.assert_allclose(np.linalg.inv(camera.cam2ego)[:3], EGO2CAM[camera.name], atol=1e-12)
        np.testing.assert_allclose(camera.raw_intrinsics, [214.35935394, 214.35935394, 800, 450], atol=1e-7)
        assert not camera.is_pinhole
    assert [camera.depth_offset for camera in rig.cameras] == [-0.2, 0, 0, 0]


def test_a_point_projects_to_the_documented_pixel() -> None:
    rig = package_calibration()
    point = np.array([10.0, 2, 1, 1])
    seen = [(np.linalg.inv(camera.cam2ego) @ point)[:3] for camera in rig.cameras]
    projected = rig.cameras[0].intrinsic_matrix @ seen[0]
    np.testing.assert_allclose(projected[:2] / projected[2], [859.820871, 488.876950], atol=1e-6)
    np.testing.assert_allclose([z for _, _, z in seen], [8.5, -2.3, 1.7, -11.6], atol=1e-12)


def test_some_cameras_are_chosen_in_the_order_asked_for() -> None:
    rig = package_calibration()
    chosen = rig.select(['back', 'front'])
    assert chosen.cameras == (rig.cameras[3], rig.cameras[0])
    assert (chosen.image_size, chosen.lidar_height) == (rig.image_size, rig.lidar_height)
    assert rig.select(None) is rig
    with pytest.raises(ConfigError, match=r"cameras=\['front', 'top'\].*'top'.*: front, left, right, back"):
        rig.select(['front', 'top'])


def test_a_calibration_survives_its_json_form() -> None:
    data = json.loads(json.dumps(calibration_to_dict(package_calibration())))
    assert calibration_to_dict(parse_calibration(data, 'file')) == data


def test_a_dataset_without_a_file_uses_the_package_rig(tmp_path: Path) -> None:
    assert load_calibration(DatasetStorage(tmp_path)).image_size == (900, 1600)


def test_a_missing_file_is_named_if_the_images_do_not_fit_the_package_rig(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, {'town01_00/routes_a': 6})
    (root / 'calibration.json').unlink()
    with pytest.raises(ConfigError, match=r'calibration\.json is missing: .*36x64 .*900x1600'):
        CarlaDataset(root, pipeline())
    rgb = cv2.imencode('.png', np.zeros((900, 1600, 3), np.uint8))[1].tobytes()
    for content in (rgb, b'', b'damaged'):
        (root / 'town01_00/routes_a/rgb_front/0000.png').write_bytes(content)
        assert CarlaDataset(root, pipeline()).calibration.image_size == (900, 1600)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    data = calibration_to_dict(replace(package_calibration(), lidar_size=(32, 600)))
    (tmp_path / 'calibration.json').write_text(json.dumps(data), encoding='utf-8-sig')
    assert calibration_to_dict(load_calibration(DatasetStorage(tmp_path))) == data


def test_a_file_at_the_root_wins(tmp_path: Path) -> None:
    data = calibration_to_dict(package_calibration())
    data['cameras'] = data['cameras'][1:3]
    (tmp_path / 'calibration.json').write_text(json.dumps(data))
    assert [camera.name for camera in load_calibration(DatasetStorage(tmp_path)).cameras] == ['left', 'right']
    (tmp_path / 'calibration.json').write_text('{')
    with pytest.raises(SampleReadError, match=r'calibration\.json: not readable as JSON'):
        load_calibration(DatasetStorage(tmp_path))


def _set(path: tuple, value: Any) -> Any:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        if value is None:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_set(('schema_version',), 2), 'schema_version is 2'),
        (_set(('image_size',), [900.5, 1600]), 'image_size must be'),
        (_set(('image_size',), [900, 10**9]), 'image_size must be'),
        (_set(('frame_interval',), 0), 'frame_interval must be positive'),
        (_set(('cameras',), []), 'at least one camera'),
        (_set(('cameras', 1, 'name'), 'front'), 'same name'),
        (_set(('cameras', 2, 'intrinsics'), [1, 2, 3]), r'cameras\[2\]: intrinsics must be'),
        (_set(('cameras', 0, 'raw_intrinsics'), [-1, 2, 3, 4]), 'focal length'),
        (_set(('cameras', 0, 'distortion'), [float('nan')] * 5), 'distortion must be finite'),
        (_set(('cameras', 0, 'cam2ego', 0), [2, 0, 0, 0]), 'not a rotation'),
        (_set(('cameras', 3, 'rgb'), '../../etc'), 'could lead out'),
        (_set(('cameras', 3, 'seg'), None), "key 'seg' is missing"),
        (_set(('lidar', 'size'), [64]), r'lidar: size must be'),
        (_set(('lidar', 'size'), [0, 937]), r'size must be \[beams, firings\]'),
        (_set(('bev', 'x'), [3, -3]), r'bev: x must be \[low, high\]'),
        (_set(('gnss',), 'north'), 'gnss: expected a JSON object'),
    ],
)
def test_a_wrong_value_is_named(change: Any, message: str) -> None:
    data = copy.deepcopy(calibration_to_dict(package_calibration()))
    change(data)
    with pytest.raises(ValueError, match=message) as caught:
        parse_calibration(data, 'somewhere/calibration.json')
    assert 'somewhere/calibration.json' in str(caught.value)
