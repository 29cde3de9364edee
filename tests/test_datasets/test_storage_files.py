"""Damaged, wrong and hostile files: each is reported by name, none runs code or ends in another error."""

import functools
import http.server
import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from helpers.tiny_dataset import (
    SIZE,
    measurements_of,
    pipeline,
    points_of,
    supervision_of,
    write_dataset,
    write_frame,
)

from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.calibration import package_calibration
from thinktwice.datasets.storage import DatasetStorage, RouteReader, SampleReadError, decode_jpeg
from thinktwice.errors import DamagedDataError

TOWN, ROUTE = 'town01_00', 'routes_town01_00_a'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_frame(tmp_path / TOWN / ROUTE, 0)
    return tmp_path


def reader_of(root: Path) -> RouteReader:
    return DatasetStorage(root).route(TOWN, ROUTE)


def read_everything(reader: RouteReader) -> None:
    reader.measurements(0)
    reader.supervision(0)
    reader.points(0)
    reader.rgb('rgb_front', 0, SIZE)
    reader.depth_code('depth_front', 0, SIZE)
    reader.class_ids('seg_front', 0, SIZE)


def truncate(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)


def write_image(image: np.ndarray) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def save(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def change_json(**changes: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps({**measurements_of(0), **changes}))


def change_supervision(**changes: Any) -> Callable[[Path], None]:
    return save(np.array({**supervision_of(0), **changes}, dtype=object))


class Payload:
    def __reduce__(self) -> tuple:
        return os.system, ('touch hacked',)


NAN_POINTS = np.where(np.arange(80).reshape(20, 4) == 7, np.nan, 1).astype(np.float32)
INFINITE_POINTS = np.where(np.arange(80).reshape(20, 4) == 7, np.inf, 1).astype(np.float32)
MAPS = supervision_of(0)['cnn_features']

DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ('rgb_front', os.remove, 'does not exist'),
    ('rgb_front', write(b''), 'empty file'),
    ('rgb_front', truncate(0.5), 'truncated PNG'),
    ('rgb_front', flip_byte, 'damaged PNG file'),
    ('rgb_front', write(b'GIF89a and so on'), 'not a PNG'),
    ('rgb_front', write_image(np.zeros((10, 20, 3), np.uint8)), 'image of 10x20 pixels.* expected 36x64'),
    ('rgb_front', write_image(np.zeros((*SIZE, 4), np.uint8)), r'4 channel\(s\) of 8 bits, expected 3'),
    ('rgb_front', write_image(np.zeros(SIZE, np.uint8)), r'1 channel\(s\)'),
    ('depth_front', write_image(np.zeros((*SIZE, 3), np.uint16)), 'of 16 bits'),
    ('seg_front', write_image(np.zeros((*SIZE, 3), np.uint8)), r'3 channel\(s\).*expected 1'),
    ('lidar', truncate(0.5), 'truncated'),
    ('lidar', write(b'\x93NUMPY\x01\x00'), 'damaged'),
    ('lidar', save(np.zeros((20, 3), np.float32)), r'expected P x 4 floats'),
    ('lidar', save(np.zeros((20, 4), np.int32)), r'expected P x 4 floats'),
    ('lidar', save(np.zeros((0, 4), np.float32)), 'without points'),
    ('lidar', save(NAN_POINTS), '1 of 20 points are NaN'),
    ('lidar', save(INFINITE_POINTS), 'infinite'),
    ('lidar', save(np.array([Payload()], dtype=object)), 'object instead of plain numbers'),
    ('supervision', save(np.array(Payload(), dtype=object)), r'posix\.system'),
    ('supervision', truncate(0.9), 'damaged|truncated'),
    ('supervision', save(np.zeros(3)), 'expected one pickled dictionary'),
    ('supervision', save(np.array([1, 2], dtype=object)), 'expected one pickled dictionary'),
    ('supervision', change_supervision(action_mu=np.ones(3, np.float32)), r'action_mu .* expected .* \(2,\)'),
    ('supervision', change_supervision(action_sigma=np.array([1, -1.0])), 'must be positive'),
    ('supervision', change_supervision(features=np.full(256, np.nan)), 'features holds NaN'),
    ('supervision', change_supervision(cnn_features=MAPS[:3]), 'list of 6 maps'),
    ('supervision', change_supervision(cnn_features=[*MAPS[:5], MAPS[4]]), r'cnn_features\[5\]'),
    ('supervision', change_supervision(value='high'), 'value is'),
    ('measurements', write(b''), 'empty file'),
    ('measurements', truncate(0.7), 'not readable as JSON'),
    ('measurements', write(b'\xff\xfe{}'), 'not readable as JSON'),
    ('measurements', write(b'[' * 100_000), 'not readable as JSON'),
    ('measurements', write(b'[1, 2]'), 'expected a JSON object'),
    ('measurements', change_json(x='12'), "x is '12', expected a number"),
    ('measurements', change_json(speed=float('inf')), 'speed is inf'),
    ('measurements', change_json(speed=float('nan')), 'speed is nan'),
    ('measurements', change_json(x=10**400), 'expected a finite number'),
    ('measurements', change_json(theta=None), "theta is 'None'"),
    ('measurements', write(b'{"x": 1}'), "key 'y' is missing"),
]


@pytest.mark.parametrize(
    ('folder', 'damage', 'message'), DAMAGES, ids=[f'{i}-{d[0]}' for i, d in enumerate(DAMAGES)]
)
def test_a_damaged_file_is_reported_by_name(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    monkeypatch.chdir(root)
    reader = reader_of(root)
    read_everything(reader)
    path = Path(reader.path(folder, 0))
    damage(path)
    with pytest.raises(SampleReadError, match=message) as caught:
        read_everything(reader)
    assert caught.value.path == str(path)
    assert caught.value.missing == (damage is os.remove)
    assert not (root / 'hacked').exists()


@pytest.fixture(scope='module')
def whole_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('whole'), {f'{TOWN}/{ROUTE}': 8, f'{TOWN}/another': 8})


@pytest.mark.parametrize(
    ('folder', 'damage', 'message'), DAMAGES, ids=[f'{i}-{d[0]}' for i, d in enumerate(DAMAGES)]
)
def test_no_damage_stops_a_run_that_skips(
    whole_dataset: Path, folder: str, damage: Callable[[Path], Any], message: str
) -> None:
    steps = pipeline()
    steps[2] = {'type': 'LoadCameras', 'image_size': (16, 32)}
    dataset = CarlaDataset(whole_dataset, steps, on_error='skip')
    index = next(i for i in range(len(dataset)) if dataset.sample_id(i) == f'{TOWN}/{ROUTE}/0002')
    path = Path(dataset.storage.route(TOWN, ROUTE).path(folder, 2))
    original = path.read_bytes()
    try:
        damage(path)
        sample = dataset[index]
    finally:
        path.write_bytes(original)
    skipped = sample['metas']['skipped']
    assert skipped[0]['path'] == str(path) and skipped[0]['sample_id'] == f'{TOWN}/{ROUTE}/0002'
    assert re.search(message, f'{path}: {skipped[0]["reason"]}')
    assert sample['metas']['index'] != index and sample['inputs']['img'].shape == (2, 2, 3, 16, 32)


def test_a_camera_without_any_images_is_reported(whole_dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / 'copy'
    shutil.copytree(whole_dataset, root)
    for route in (root / TOWN).iterdir():
        shutil.rmtree(route / 'rgb_left')
    steps = pipeline()
    steps[2] = {'type': 'LoadCameras', 'image_size': (16, 32)}
    with pytest.raises(SampleReadError, match=r'rgb_left/0000\.png: the file does not exist'):
        CarlaDataset(root, steps)[0]
    with pytest.raises(DamagedDataError, match='could not be read.*rgb_left'):
        CarlaDataset(root, steps, on_error='skip')[0]


def test_a_missing_heading_is_left_to_the_reader(root: Path) -> None:
    path = Path(reader_of(root).path('measurements', 0))
    change_json(theta=float('nan'))(path)
    assert 'NaN' in path.read_text()
    assert np.isnan(reader_of(root).measurements(0)['theta'])


@pytest.mark.parametrize(
    ('town', 'route'),
    [
        ('..', ROUTE),
        (TOWN, '../../etc'),
        (TOWN, '/etc'),
        (TOWN, 'a/b'),
        (TOWN, ''),
        (TOWN, '.hidden'),
        (TOWN, 'a\x00b'),
        (TOWN, 'a..b'),
    ],
)
def test_names_that_lead_out_of_the_dataset_are_refused(root: Path, town: str, route: str) -> None:
    with pytest.raises(SampleReadError, match='refused as the name'):
        DatasetStorage(root).route(town, route)
    with pytest.raises(SampleReadError, match='refused as the name'):
        reader_of(root).rgb('../rgb_front', 0, SIZE)
    with pytest.raises(SampleReadError, match='refused as the name'):
        DatasetStorage(root).read_bytes('../secret.json')


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(SampleReadError('a/b.png', 'truncated', missing=True)))
    assert (error.path, error.reason, error.missing) == ('a/b.png', 'truncated', True)
    assert str(error) == 'a/b.png: truncated'


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def address(root: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_dataset_is_read_over_http(root: Path, address: str) -> None:
    storage = DatasetStorage(address)
    reader = storage.route(TOWN, ROUTE)
    local = reader_of(root)
    assert reader.measurements(0) == local.measurements(0)
    np.testing.assert_array_equal(reader.points(0), points_of(0))
    np.testing.assert_array_equal(reader.rgb('rgb_left', 0, SIZE), local.rgb('rgb_left', 0, SIZE))
    with pytest.raises(SampleReadError, match=r'calibration\.json: .*answers 404') as caught:
        storage.read_bytes('calibration.json')
    assert caught.value.missing
    with pytest.raises(SampleReadError, match='answers 404') as caught:
        reader.points(1)
    assert caught.value.missing and caught.value.path == f'{address}/{TOWN}/{ROUTE}/lidar/0001.npy'


def test_a_server_that_is_gone_is_not_a_missing_file(root: Path) -> None:
    reader = DatasetStorage('http://127.0.0.1:9').route(TOWN, ROUTE)
    with pytest.raises(SampleReadError, match='cannot be read') as caught:
        reader.points(0)
    assert not caught.value.missing


def test_a_dataset_is_read_from_one_lmdb(root: Path, tmp_path: Path) -> None:
    database = tmp_path / 'all.lmdb'
    with (
        lmdb.open(str(database), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for path in root.rglob('*.*'):
            if path.is_file() and database not in path.parents:
                transaction.put(path.relative_to(root).as_posix().encode(), path.read_bytes())
    storage = DatasetStorage('', {'backend': 'lmdb', 'db_path': str(database)})
    for copy in (storage, pickle.loads(pickle.dumps(storage))):
        reader = copy.route(TOWN, ROUTE)
        np.testing.assert_array_equal(reader.points(0), points_of(0))
        with pytest.raises(SampleReadError, match='does not exist') as caught:
            reader.points(1)
        assert caught.value.missing


def test_a_jpeg_is_refused_by_its_header_before_it_is_decoded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        data = cv2.imencode('.jpg', image, options)[1].tobytes()
        assert decode_jpeg(data, 'file', (24, 40)).shape == (24, 40, 3)
    data = cv2.imencode('.jpg', image)[1].tobytes()
    bomb = data.replace(b'\x00\x18\x00\x28', b'\xff\xff\xff\xff', 1)
    for broken, message in (
        (bomb, '65535x65535 pixels .* expected 24x40'),
        (data[:100], 'no frame header'),
        (b'', 'empty file'),
        (b'BM', 'not a JPEG'),
    ):
        with pytest.raises(SampleReadError, match=message):
            decode_jpeg(broken, 'file', (24, 40))


def test_numbers_of_the_package_rig_name_the_recorded_folders() -> None:
    folders = {camera.rgb for camera in package_calibration().cameras}
    assert folders == {'rgb_front', 'rgb_left', 'rgb_right', 'rgb_back'}
