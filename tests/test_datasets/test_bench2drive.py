"""Clips of Bench2Drive, made from the town: what is read is what they were made from, and damage is named."""

import gzip
import json
import math
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import laspy
import numpy as np
import pytest
from helpers.bench2drive_clips import (
    ACTIONS,
    CLIP,
    GNSS_NOISE,
    RIG,
    SIZE,
    TRAP_FRAME,
    VAL_CLIP,
    Clip,
    read_annotation,
    write_annotation,
    write_clip,
    write_laz,
)
from helpers.commands import command
from helpers.damage import damaged_bytes

from thinktwice.datasets import Bench2DriveDataset, CarlaDataset
from thinktwice.datasets.bench2drive.checks import ACTIONS as CHECKED_ACTIONS
from thinktwice.datasets.bench2drive.checks import CHECKS, check_clip
from thinktwice.datasets.bench2drive.clips import find_clips, scan_clips, val_clips, write_clips
from thinktwice.datasets.calibration import load_calibration
from thinktwice.datasets.labels import decode_depth
from thinktwice.datasets.metadata import save_metadata
from thinktwice.datasets.storage import DatasetStorage, RouteReader, SampleReadError
from thinktwice.datasets.storage.bench2drive import MAX_POINTS, RIDER_ID, parse_laz
from thinktwice.errors import ConfigError
from thinktwice.model_code.control import beta_mode_action

FRAMES = 36
PIPELINE = [
    {'type': 'LoadMeasurements'},
    {'type': 'LoadPoints'},
    {'type': 'LoadCameras', 'image_size': (32, 64)},
    {'type': 'LoadWaypoints'},
    {'type': 'PackSample'},
]


def list_clips(root: Path, **options: Any) -> None:
    """What tools/generate_metadata.py writes."""
    scan, clips, rig = scan_clips(root, find_clips(root), **options)
    assert rig is not None
    write_clips(root, clips, rig)
    save_metadata(scan.metadata, root)


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    clip = write_clip(tmp_path_factory.mktemp('bench2drive'), FRAMES, nesting='v1')
    list_clips(clip.path.parents[1])
    return clip


@pytest.fixture
def copy(original: Clip, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(original.path.parents[1], tmp_path / 'copy'))


def root_of(clip: Clip) -> Path:
    return clip.path.parents[1]


def reader_of(root: Path, phase: int = 0) -> RouteReader:
    return DatasetStorage(root).route(f'town01_train{phase}', CLIP)


def change_annotation(root: Path, frame: int, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / f'v1/{CLIP}/anno/{frame:05d}.json.gz'
    values = read_annotation(path)
    change(values)
    write_annotation(path, values)


@pytest.mark.parametrize('phase', range(5))
def test_poses_speeds_and_targets_are_those_of_the_drive(original: Clip, phase: int) -> None:
    reader = reader_of(root_of(original), phase)
    for step in range(6):
        frame = original.frames[5 * step + phase]
        values, (x, y, yaw) = reader.measurements(step), frame.pose
        assert (values['x'], values['y']) == (-y, x)
        assert math.cos(values['theta'] - math.pi / 2 - yaw) == pytest.approx(1.0, abs=1e-12)
        assert values['speed'] == frame.speed, 'also where the recorded speed is null'
        for key in ('x_target', 'y_target', 'target_command'):
            assert values[key] == frame.measured[key]


def test_the_recorded_position_and_heading_would_not_do(original: Clip) -> None:
    annotations = [read_annotation(original.path / f'anno/{frame:05d}.json.gz') for frame in range(FRAMES)]
    errors = [
        math.hypot(values['x'] - frame.pose[0], values['y'] - frame.pose[1])
        for values, frame in zip(annotations, original.frames, strict=True)
    ]
    assert np.mean(errors) > GNSS_NOISE
    assert math.isnan(annotations[TRAP_FRAME]['theta']) and annotations[TRAP_FRAME]['speed'] is None


def test_without_any_speed_the_ego_stands(copy: Path) -> None:
    change_annotation(
        copy, 0, lambda v: (v.update(speed=None), v['bounding_boxes'][0].update(speed=math.nan))
    )
    assert reader_of(copy).measurements(0)['speed'] == 0.0


def test_points_and_images_are_those_of_the_drive(original: Clip) -> None:
    reader = reader_of(root_of(original), phase=2)
    frame = original.frames[12]
    points = reader.points(2)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[:, :3], frame.points[:, :3], atol=0.00051)
    distances = np.linalg.norm(points[:, :3] - [-0.39, 0.0, 1.84], axis=1)
    np.testing.assert_allclose(points[:, 3], np.exp(-0.004 * distances), rtol=1e-6)
    for view in RIG:
        rgb = reader.rgb(f'rgb_{view}', 2, SIZE)
        assert np.abs(rgb.astype(int) - frame.rgb[view]).mean() < 20, 'JPEG of quality 20'
        depth = decode_depth(reader.depth_code(f'depth_{view}', 2, SIZE))
        known = (frame.depth[view] > 0.51) & (frame.depth[view] < 254)
        np.testing.assert_allclose(depth[known], frame.depth[view][known], atol=0.501)
        assert not depth[frame.depth[view] > 255].any(), 'no depth of the sky'
        np.testing.assert_array_equal(reader.class_ids(f'semantic_{view}', 2, SIZE), frame.classes[view])


def test_all_class_ids_of_the_simulator_are_mapped(copy: Path) -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids.ravel()[:256] = range(256)
    cv2.imwrite(str(copy / f'v1/{CLIP}/camera/semantic_front/00000.png'), ids)
    mapped = reader_of(copy).class_ids('semantic_front', 0, SIZE).ravel()[:256]
    expected = {1: 7, 2: 8, 3: 1, 4: 11, 7: 18, 8: 12, 11: 13, 12: 4, 13: RIDER_ID, 24: 6, 28: 17}
    assert {new: int(mapped[new]) for new in expected} == expected
    assert set(mapped[14:20].tolist()) == {10} and not mapped[29:].any()


def test_depth_images_with_three_channels_are_read(copy: Path) -> None:
    path = copy / f'v1/{CLIP}/camera/depth_front/00000.png'
    expected = reader_of(copy).depth_code('depth_front', 0, SIZE)
    cv2.imwrite(str(path), np.repeat(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None], 3, axis=2))
    np.testing.assert_array_equal(reader_of(copy).depth_code('depth_front', 0, SIZE), expected)


def test_the_action_is_the_control_that_follows(original: Clip) -> None:
    import torch

    reader = reader_of(root_of(original), phase=1)
    for step in range(6):
        frame, values = 5 * step + 1, reader.supervision(step)
        throttle, steer, brake, _ = original.frames[frame + 1].control
        alpha, beta = (torch.from_numpy(values[key]) for key in ('action_mu', 'action_sigma'))
        np.testing.assert_allclose(beta_mode_action(alpha, beta), [throttle - brake, steer], atol=1e-5)
        np.testing.assert_allclose(alpha + beta, 20.0, rtol=1e-6)
        assert ACTIONS[values['action_index']] == original.frames[frame + 1].control
        np.testing.assert_array_equal(values['features'], original.features[frame])
        assert values['cnn_features'] == [None] * 6


def test_in_reverse_gear_the_throttle_brakes(copy: Path) -> None:
    change_annotation(copy, 1, lambda values: values.update(throttle=0.5, brake=0.0, steer=0.1, reverse=True))
    values = reader_of(copy).supervision(0)
    assert 2 * (values['action_mu'][0] - 1) / 18 - 1 == pytest.approx(-0.5, abs=1e-6)


def test_waypoints_are_exact(original: Clip) -> None:
    sample = Bench2DriveDataset(root_of(original), PIPELINE, phases=[3])[0]
    (x, y, yaw), *future = [original.frames[3 + 5 * step].pose for step in range(1, 6)]
    ahead = [
        (
            math.cos(yaw) * (px - x) + math.sin(yaw) * (py - y),
            math.cos(yaw) * (py - y) - math.sin(yaw) * (px - x),
        )
        for px, py, _ in future
    ]
    np.testing.assert_allclose(sample['targets']['waypoints'], ahead, atol=1e-5)
    assert sample['inputs']['img'].shape == (2, 6, 3, 32, 64)


def test_phases_are_an_option(original: Clip) -> None:
    root = root_of(original)
    split = dict(towns=['town01'], indices=['train'])
    # of 36 frames, the last has no control that follows: samples start at frames 5 to 14
    assert len(Bench2DriveDataset(root, PIPELINE, split)) == 2
    assert len(Bench2DriveDataset(root, PIPELINE, split, phases=range(5))) == 10
    every = Bench2DriveDataset(root, PIPELINE, phases=(0, 1, 2, 3, 4))
    assert len({every.sample_id(index) for index in range(len(every))}) == 10
    for phases in ((5,), (), 'all', 0, [True]):
        with pytest.raises(ConfigError, match='phases='):
            Bench2DriveDataset(root, PIPELINE, split, phases=phases)  # type: ignore[arg-type]


def test_without_laspy_the_error_says_how_to_install_it(
    original: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r'laspy and lazrs.*requirements/bench2drive\.txt'):
        Bench2DriveDataset(root_of(original), PIPELINE)


def test_the_validation_clips_are_known() -> None:
    assert len(val_clips()) == 50 and VAL_CLIP in val_clips() and CLIP not in val_clips()


def test_clips_are_found_wherever_the_download_puts_them(original: Clip, tmp_path: Path) -> None:
    truncated = 'VehicleTurningRoutePedestrian_Town15_Route523_Weathe'
    places = (f'v1/{CLIP}', VAL_CLIP, f'v1/VehicleTurningRoutePedestrian/{truncated}')
    for place in (*places, f'other/{CLIP}', 'v1/NoTown', 'v1/Bad Name_Town01_x'):
        shutil.copytree(original.path, tmp_path / place)
    (tmp_path / 'v1' / f'{CLIP}.tar.gz').write_bytes(b'')
    scan, clips, _ = scan_clips(tmp_path, find_clips(tmp_path), phases=[0])
    assert set(clips) == {CLIP, VAL_CLIP, truncated}
    assert set(scan.metadata.towns) == {'town01_train0', 'town01_val0', 'town15_train0'}
    assert set(scan.malformed) == {'v1/NoTown', 'v1/Bad Name_Town01_x', f'v1/{CLIP}'}, 'one of a clip twice'


def test_a_clip_ends_with_its_first_incomplete_frame(copy: Path) -> None:
    clip = copy / f'v1/{CLIP}'

    def usable() -> list[int]:
        scan, _, _ = scan_clips(copy, find_clips(copy))
        return [record.usable for _, _, record in scan.metadata.routes()]

    assert usable() == [7, 7, 7, 7, 7], 'frames 0 to 34: no control follows the last'
    (clip / 'lidar/00035.laz').unlink()  # a recorder that was killed
    (clip / 'lidar/00034.laz').write_bytes(b'')
    assert usable() == [7, 7, 7, 7, 6]
    (clip / 'camera/semantic_back_left/00012.png').unlink()
    assert usable() == [3, 3, 2, 2, 2]
    (clip / 'expert_assessment/00004.npz').unlink()
    assert usable() == [1, 1, 1, 1, 0]
    shutil.rmtree(clip / 'lidar')
    scan, clips, rig = scan_clips(copy, find_clips(copy))
    assert 'lidar' in scan.malformed[f'v1/{CLIP}'] and not clips and rig is None


def test_a_clip_with_another_rig_is_left_out(copy: Path) -> None:
    other = copy / f'v1/{VAL_CLIP}'
    shutil.copytree(copy / f'v1/{CLIP}', other)
    values = read_annotation(other / 'anno/00000.json.gz')
    values['sensors']['CAM_BACK']['cam2ego'][0][3] += 0.1
    write_annotation(other / 'anno/00000.json.gz', values)
    scan, clips, _ = scan_clips(copy, find_clips(copy))
    assert set(clips) == {CLIP} and 'rig' in scan.malformed[f'v1/{VAL_CLIP}']


def test_the_calibration_is_that_of_the_clips(original: Clip) -> None:
    calibration = load_calibration(DatasetStorage(root_of(original)))
    front, *_, back_right = calibration.cameras
    assert [camera.name for camera in calibration.cameras] == list(RIG)
    np.testing.assert_array_equal(
        front.cam2ego, [[0, 0, 1, 0.8], [1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]]
    )
    focal = SIZE[1] / 2 / math.tan(math.radians(35))
    np.testing.assert_allclose(front.intrinsics, [focal, focal, (SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
    # the optical axis of the camera that looks back to the right
    np.testing.assert_allclose(back_right.cam2ego[:2, 2], [math.cos(1.91986), math.sin(1.91986)], atol=1e-5)
    assert calibration.lidar_height == 1.84 and calibration.frame_interval == 0.5


def test_the_ten_checks_pass_on_a_good_clip(original: Clip) -> None:
    results = check_clip(str(root_of(original)), (CLIP, f'v1/{CLIP}'))
    assert len(results) == 10 and all(result.passed for result in results), results
    assert [tuple(map(float, action)) for action in ACTIONS] == [tuple(action) for action in CHECKED_ACTIONS]


def _in_all(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda root: [change_annotation(root, frame, change) for frame in range(FRAMES)] and None


def _shift_points(root: Path) -> None:
    for path in (root / f'v1/{CLIP}/lidar').glob('*.laz'):
        write_laz(path, laspy.read(path).xyz + [0, 0, 1.84])  # lidar2ego applied twice


def _one_id(root: Path) -> None:
    for path in (root / f'v1/{CLIP}/camera').glob('semantic_*/*.png'):
        cv2.imwrite(str(path), np.full(SIZE, 14, np.uint8))


def _centimeters(root: Path) -> None:
    for path in (root / f'v1/{CLIP}/camera').glob('depth_*/*.png'):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 2)


def _other_length(root: Path) -> None:
    np.savez(root / f'v1/{CLIP}/expert_assessment/00003.npz', np.zeros(100, np.float32))


@pytest.mark.parametrize(
    ('failing', 'damage'),
    [
        ('keys of anno', _in_all(lambda values: values.pop('weather'))),
        ('pose of the ego', _in_all(lambda v: v['bounding_boxes'][0]['location'].__setitem__(0, 3.0))),
        ('pose of the ego', _in_all(lambda values: values.update(theta=values['theta'] + 1.0))),
        (
            'poses of the cameras',
            _in_all(lambda v: v['sensors']['CAM_BACK']['cam2ego'][1].__setitem__(3, 1.0)),
        ),
        ('points on the road', _shift_points),
        ('points on the road', _one_id),
        ('depth of points and images', _centimeters),
        ('sky', _one_id),
        ('expert files', _other_length),
        ('expert files', lambda root: (root / f'v1/{CLIP}/expert_assessment/-0001.npz').unlink()),
        ('speed', _in_all(lambda values: values.update(speed=30.0))),
        ('actions of the expert', _in_all(lambda values: values.update(steer=0.44))),
    ],
)
def test_each_check_fails_where_it_should(copy: Path, failing: str, damage: Callable[[Path], None]) -> None:
    damage(copy)
    results = {result.name: result for result in check_clip(str(copy), (CLIP, f'v1/{CLIP}'))}
    assert not results[failing].passed
    assert list(results) == [name for name, _ in CHECKS]


def _header(offset: int, fmt: str, value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        struct.pack_into(fmt, data, offset, value)
        path.write_bytes(data)

    return change


def _write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _json(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_annotation(path, {**read_annotation(path), **changes})


def _box(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        values = read_annotation(path)
        values['bounding_boxes'][0].update(changes)
        write_annotation(path, values)

    return change


def _image(image: np.ndarray) -> Callable[[Path], None]:
    return lambda path: cv2.imwrite(str(path), image) and None


def _npz(array: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, array)


FEATURES = np.zeros(1538, np.float32)
ANNO, LAZ, EXPERT = 'anno/00000.json.gz', 'lidar/00000.laz', 'expert_assessment/00000.npz'
RGB, DEPTH, IDS = (
    f'camera/{name}' for name in ('rgb_front/00000.jpg', 'depth_front/00000.png', 'semantic_back/00000.png')
)
DAMAGE = [
    *((file, _cut, None) for file in (ANNO, LAZ, EXPERT, DEPTH, IDS)),
    *((file, _write(b''), 'empty|not|damaged') for file in (ANNO, LAZ, EXPERT, RGB, DEPTH, IDS)),
    *((file, lambda path: path.unlink(), 'not exist') for file in (ANNO, LAZ, EXPERT, RGB, DEPTH, IDS)),
    (ANNO, _write(gzip.compress(b'[' * 10**6)), 'JSON'),
    (ANNO, _write(gzip.compress(bytes(20 * 2**20))), 'more than'),
    (ANNO, _write(gzip.compress(b'{"bounding_boxes": []}')), 'bounding_boxes'),
    (ANNO, _json(bounding_boxes=[{'class': 'vehicle'}]), 'ego_vehicle'),
    (ANNO, _json(x_target=None), 'x_target'),
    (ANNO, _json(next_command='left'), 'next_command'),
    (ANNO, _json(only_ap_brake='no'), 'only_ap_brake'),
    (ANNO, _box(location=[0.0, math.nan, 0.0]), 'location'),
    (ANNO, _box(location=[0.0, 1.0]), 'location'),
    (ANNO, _box(rotation=[0, 0, 10**400]), 'rotation'),
    (LAZ, _header(107, '<I', MAX_POINTS + 1), 'points'),
    (LAZ, _header(107, '<I', 0), 'points'),
    (LAZ, _header(104, '<B', 0x80 | 3), 'point format'),
    (LAZ, _header(100, '<I', 2**31), 'LAS'),
    (LAZ, _header(131, '<d', math.nan), 'NaN'),
    (LAZ, _write(b'LASF' + bytes(300)), 'LAS'),
    (EXPERT, _npz(FEATURES[None]), 'vector'),
    (EXPERT, _npz(FEATURES[:2]), 'vector'),
    (EXPERT, _npz(np.full(1538, np.nan)), 'finite'),
    (EXPERT, _npz(np.full(1538, 39.0)), 'action'),
    (EXPERT, _npz(np.array([None])), 'plain numbers'),
    (RGB, _image(np.zeros((*SIZE[::-1], 3), np.uint8)), 'pixels'),
    (DEPTH, _image(np.zeros((*SIZE, 4), np.uint8)), 'channel'),
    (DEPTH, _image(np.zeros(SIZE, np.uint16)), 'bits'),
    (IDS, _image(np.zeros((*SIZE, 3), np.uint8)), 'channel'),
    (IDS, _image(np.zeros((10, 10), np.uint8)), 'pixels'),
]


@pytest.fixture
def one_frame(original: Clip, tmp_path: Path) -> Path:
    """The dataset with the first two frames of its clip."""
    root = root_of(original)
    for path in root.rglob('*'):
        if path.is_file() and path.name.split('.')[0] in ('00000', '00001', 'bench2drive', 'calibration'):
            (tmp_path / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / path.relative_to(root))
    return tmp_path


def read_everything(reader: RouteReader) -> None:
    reader.measurements(0)
    reader.supervision(0)
    reader.points(0)
    for view in RIG:
        reader.rgb(f'rgb_{view}', 0, SIZE)
        reader.depth_code(f'depth_{view}', 0, SIZE)
        reader.class_ids(f'semantic_{view}', 0, SIZE)


@pytest.mark.parametrize(('file', 'damage', 'message'), DAMAGE)
def test_a_damaged_file_is_reported_by_name(
    one_frame: Path, file: str, damage: Callable[[Path], Any], message: str | None
) -> None:
    read_everything(reader_of(one_frame))
    damage(one_frame / f'v1/{CLIP}' / file)
    with pytest.raises(SampleReadError, match=message) as caught:
        read_everything(reader_of(one_frame))
    assert caught.value.path.split(':')[0] == str(one_frame / f'v1/{CLIP}' / file)


def test_random_damage_ends_in_no_other_error(one_frame: Path) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        path = rng.choice(
            [one_frame / f'v1/{CLIP}' / file for file in (ANNO, LAZ, LAZ, LAZ, EXPERT, RGB, DEPTH)]
        )
        before = path.read_bytes()
        damaged_bytes(path, rng)
        try:
            read_everything(reader_of(one_frame))
        except SampleReadError as error:
            assert path.name in error.path  # noqa: PT017  some damage goes unseen
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)


def test_damaged_point_clouds_neither_crash_nor_fill_the_memory(one_frame: Path) -> None:
    data = (one_frame / f'v1/{CLIP}' / LAZ).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        # mostly in the header, whose numbers the decoder believes
        end = len(data) if rng.random() < 0.3 else 400
        for place in rng.integers(4, end, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            points = parse_laz(bytes(damaged), 'file')
        except SampleReadError:
            continue
        assert len(points) <= MAX_POINTS and (np.abs(points) < 1000).all()


@pytest.mark.parametrize(
    'clips',
    [
        {CLIP: '../outside'},
        {CLIP: '/etc'},
        {CLIP: 'v1//x'},
        {'../x': 'v1/x'},
        {CLIP: ''},
        {CLIP: 3.5},
        [CLIP],
        None,
    ],
)
def test_a_list_of_clips_leads_nowhere_else(one_frame: Path, clips: Any) -> None:
    content = {'schema_version': 1, 'clips': clips}
    (one_frame / 'bench2drive.json').write_text(json.dumps(content))
    with pytest.raises(SampleReadError):
        reader_of(one_frame).measurements(0)


def test_unknown_clips_and_phases_are_refused(original: Clip) -> None:
    storage = DatasetStorage(root_of(original))
    for town, clip in (
        ('town01_train0', 'Nothing_Town01_x'),
        ('town01_train7', CLIP),
        ('town01_train0', '..'),
    ):
        with pytest.raises(SampleReadError):
            storage.route(town, clip)


def test_the_tools_work_on_clips(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('bench2drive.json', 'calibration.json', 'dataset_metadata.json', 'dataset_metadata.pkl'):
        (copy / name).unlink()
    generate, check, pack = (
        command(f'tools/{name}.py') for name in ('generate_metadata', 'check_dataset', 'pack_dataset')
    )
    one = ['--workers', '1']
    with pytest.raises(FileNotFoundError, match='generate_metadata'):
        Bench2DriveDataset(copy, PIPELINE)
    assert generate([str(copy), *one, '--phases', '9']) == 1
    assert generate([str(copy), *one, '--phases', '1']) == 0
    assert set(json.loads((copy / 'dataset_metadata.json').read_text())['towns']) == {'town01_train1'}
    assert check([str(copy), *one]) == 0
    assert check([str(copy), *one, '--sensors']) == 0
    assert capsys.readouterr().out.count('1 of 1 clips pass') == 10
    packed = tmp_path / 'packed'
    assert pack([str(copy), str(packed), '--final-size', '32', '64', '--verify', *one]) == 0
    recorded = Bench2DriveDataset(copy, PIPELINE, phases=[1])
    same = CarlaDataset(packed, PIPELINE)
    assert len(recorded) == len(same) == 2
    for before, after in zip(recorded, same, strict=True):
        np.testing.assert_array_equal(before['targets']['waypoints'], after['targets']['waypoints'])
        np.testing.assert_allclose(before['inputs']['points'], after['inputs']['points'], atol=3e-3)
        known = before['targets']['depth'] > 0
        assert (before['targets']['depth'] == after['targets']['depth'])[known].float().mean() > 0.8
    values = DatasetStorage(packed).route('town01_train1', CLIP).supervision(0)
    assert values['features'].shape == (1536,)
    (copy / f'v1/{CLIP}/lidar/00006.laz').write_bytes(b'LASF')
    assert check([str(copy), *one]) == 1
    assert '00006.laz' in capsys.readouterr().out
