"""The camera step: shapes, shared draws, labels of the key frame, agreement with the matrices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import tiny_dataset

from thinktwice.datasets.calibration import Calibration, load_calibration
from thinktwice.datasets.labels import decode_depth
from thinktwice.datasets.pipelines import LoadCameras
from thinktwice.datasets.storage import DatasetStorage, RouteReader, SampleReadError
from thinktwice.errors import ConfigError
from thinktwice.release_2023.data import ReferenceLoadCameras

NAME = 'town01_00/routes_a'
FINAL = (16, 32)
ADDED = {'img', 'intrinsics', 'cam2ego', 'ida_mats', 'depth', 'seg'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_dataset.write_dataset(tmp_path, {NAME: 3})


class CountingReader:
    """Passes everything on and notes what was read."""

    def __init__(self, reader: RouteReader) -> None:
        self.reader, self.calls = reader, []

    def __getattr__(self, name: str) -> Any:
        def call(folder: str, frame: int, *rest: Any) -> Any:
            self.calls.append((folder, frame))
            return getattr(self.reader, name)(folder, frame, *rest)

        return call


def results_of(root: Path, seed: int = 0, **changes: Any) -> dict[str, Any]:
    storage = DatasetStorage(root)
    return {
        'reader': CountingReader(storage.route(*NAME.split('/'))),
        'frames': [1, 2],
        'calibration': load_calibration(storage),
        'rng': np.random.default_rng(seed),
        'test_mode': False,
        'with_targets': True,
        **changes,
    }


def run(root: Path, seed: int = 0, changes: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return LoadCameras(image_size=FINAL, **settings)(results_of(root, seed, **(changes or {})))


def test_the_step_adds_what_it_declares(root: Path) -> None:
    before = set(results_of(root))
    results = run(root, training=True)
    assert set(results) - before == ADDED
    assert results['img'].shape == (2, 2, 3, 16, 32) and results['img'].dtype == np.uint8
    assert results['depth'].shape == (2, 16, 32) and results['depth'].dtype == np.float32
    assert results['seg'].shape == (2, 16, 32) and results['seg'].dtype == np.uint8
    for key, size in (('intrinsics', 3), ('cam2ego', 4), ('ida_mats', 4)):
        assert results[key].shape == (2, 2, size, size) and results[key].dtype == np.float32


@pytest.mark.parametrize('step', [LoadCameras, ReferenceLoadCameras])
def test_no_file_of_a_camera_that_is_not_chosen_is_read(root: Path, step: type[LoadCameras]) -> None:
    whole, chosen = (
        step(image_size=FINAL, cameras=cameras)(results_of(root)) for cameras in (None, ['left'])
    )
    assert [camera.name for camera in chosen['calibration'].cameras] == ['left']
    assert {folder for folder, _ in chosen['reader'].calls} == {'rgb_left', 'depth_left', 'seg_left'}
    for key in ADDED:
        axis = 0 if key in ('depth', 'seg') else 1
        np.testing.assert_array_equal(chosen[key], whole[key].take([1], axis))
    with pytest.raises(ConfigError, match='it has: front, left'):
        step(image_size=FINAL, cameras=['right'])(results_of(root))


def test_labels_are_read_for_the_key_frame_alone(root: Path) -> None:
    calls = run(root)['reader'].calls
    assert len(calls) == len(set(calls)) == 8
    assert {frame for folder, frame in calls if not folder.startswith('rgb')} == {2}
    assert {frame for folder, frame in calls if folder.startswith('rgb')} == {1, 2}


def test_labels_are_left_alone_without_targets(root: Path) -> None:
    for results in (run(root, changes={'with_targets': False}), run(root, with_labels=False)):
        assert not {'depth', 'seg'} & set(results)
        assert {folder[:3] for folder, _ in results['reader'].calls} == {'rgb'}


def test_all_frames_and_labels_share_the_draw_and_cameras_do_not(root: Path) -> None:
    matrices = run(root, training=True, seed=3)['ida_mats']
    np.testing.assert_array_equal(matrices[0], matrices[1])
    assert (matrices[0, 0] != matrices[0, 1]).any()
    again = run(root, training=True, seed=3)['ida_mats']
    np.testing.assert_array_equal(matrices, again)
    assert (run(root, training=True, seed=4)['ida_mats'] != matrices).any()


def test_test_mode_and_evaluation_draw_nothing(root: Path) -> None:
    state = np.random.default_rng(0).bit_generator.state
    for results in (run(root, training=True, changes={'test_mode': True}), run(root)):
        assert results['rng'].bit_generator.state == state
        np.testing.assert_allclose(results['ida_mats'][0, 0, :2, 3], [-0.25, -2.25])  # 36x64 -> 18x32 -> 16


@pytest.mark.parametrize('seed', range(6))
def test_the_matrix_finds_each_final_pixel_in_the_stored_image(root: Path, seed: int) -> None:
    results = run(root, training=True, seed=seed)
    reader = results['reader'].reader
    v, u = np.mgrid[: FINAL[0], : FINAL[1]]
    for n, camera in enumerate(tiny_dataset.CAMERAS):
        inverse = np.linalg.inv(results['ida_mats'][-1, n].astype(np.float64))
        source = np.einsum('ij,jhw->ihw', inverse, np.stack([u, v, np.zeros_like(u), np.ones_like(u)]))
        image = reader.rgb(f'rgb_{camera}', 2, tiny_dataset.SIZE).astype(np.float32)
        expected = cv2.remap(image, source[0].astype(np.float32), source[1].astype(np.float32), 1)
        difference = np.abs(expected.transpose(2, 0, 1) - results['img'][-1, n])
        assert np.percentile(difference, 90) < 8  # white noise: steps of 1/32 pixel count
        ids = reader.class_ids(f'seg_{camera}', 2, tiny_dataset.SIZE)
        rows, columns = np.rint(source[1]).astype(int), np.rint(source[0]).astype(int)
        clear = (np.abs(source[0] % 1 - 0.5) > 0.02) & (np.abs(source[1] % 1 - 0.5) > 0.02)
        nearest = ids[rows.clip(0, 35), columns.clip(0, 63)]
        table = {1: 1, 7: 5, 10: 7}
        np.testing.assert_array_equal(np.vectorize(table.get)(nearest)[clear], results['seg'][n][clear])
        code = reader.depth_code(f'depth_{camera}', 2, tiny_dataset.SIZE)
        np.testing.assert_array_equal(np.unique(results['depth'][n]), np.unique(decode_depth(code)))


def test_the_calibrations_depth_offset_is_applied(root: Path) -> None:
    plain = run(root)
    calibration: Calibration = plain['calibration']
    cameras = tuple(replace(camera, depth_offset=0.25) for camera in calibration.cameras)
    shifted = run(
        root, changes={'calibration': type(calibration)(**{**vars(calibration), 'cameras': cameras})}
    )
    np.testing.assert_allclose(shifted['depth'], plain['depth'] + 0.25, atol=1e-6)


def test_another_image_size_or_class_id_is_reported(root: Path) -> None:
    path = root / NAME / 'seg_left' / '0002.png'
    cv2.imwrite(str(path), np.full(tiny_dataset.SIZE, 77, np.uint8))
    with pytest.raises(SampleReadError, match=r'seg_left/0002\.png: holds the class id 77'):
        run(root)
    calibration = results_of(root)['calibration']
    wrong = replace(calibration, stored_size=(72, 128))
    with pytest.raises(SampleReadError, match=r'rgb_front/0001\.png: an image of 36x64 .* expected 72x128'):
        run(root, changes={'calibration': wrong})


@pytest.mark.parametrize(
    'settings',
    [
        {'image_size': (0, 4)},
        {'scale_range': (0.9, 1.1)},
        {'scale_range': (1.2, 1.1)},
        {'flip_probability': 2},
        {'cameras': 'front'},
        {'cameras': []},
        {'cameras': ['front', 'front']},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LoadCameras(**settings)
