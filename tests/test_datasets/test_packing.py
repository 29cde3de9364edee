"""Packed datasets: the same samples within stated bounds, resumable, verified."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import tiny_dataset

from thinktwice.datasets import CarlaDataset, SampleReadError
from thinktwice.datasets.calibration import load_calibration, package_calibration
from thinktwice.datasets.packing.datasets import RouteReport, pack_dataset, verify_dataset
from thinktwice.datasets.packing.frames import (
    FramePacker,
    PackSettings,
    packed_calibration,
    stored_geometry,
)
from thinktwice.datasets.pixels import center_augmentation, draw_augmentation, pixel_map
from thinktwice.datasets.storage import DatasetStorage

ROUTES = {'town01_00/routes_a': 8, 'town02_00/routes_b': 7}
FINAL = (16, 32)
SETTINGS = PackSettings(final_size=FINAL)
EXACT = PackSettings(final_size=FINAL, oversampling=10, lossless_color=True)


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_dataset.write_dataset(tmp_path_factory.mktemp('source'), ROUTES)
    path = root / 'town01_00/routes_a/seg_front/0002.png'
    lights = np.zeros(tiny_dataset.SIZE, np.uint8)
    lights[20:26, 10:16] = 18
    cv2.imwrite(str(path), lights)
    return root


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / 'packed'


def pack(
    source: Path, destination: Path, settings: PackSettings = SETTINGS, **more: Any
) -> list[RouteReport]:
    return list(pack_dataset(str(source), str(destination), settings, **more))


def dataset(root: Path, training: bool = False) -> CarlaDataset:
    steps = tiny_dataset.pipeline()
    steps[2] = {'type': 'LoadCameras', 'image_size': FINAL, 'training': training}
    return CarlaDataset(root, steps)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


@pytest.mark.parametrize('training', [False, True])
def test_full_size_lossless_packing_gives_the_same_samples(
    source: Path, destination: Path, training: bool
) -> None:
    before = contents(source)
    assert all(not report.error and not report.damaged for report in pack(source, destination, EXACT))
    assert contents(source) == before, 'the source is only read'
    raw, packed = dataset(source, training), dataset(destination, training)
    assert len(raw) == len(packed) > 3
    for index in range(len(raw)):
        first, second = raw[index], packed[index]
        for group, keys in (('inputs', first['inputs']), ('targets', first['targets'])):
            for key in keys:
                expected, found = first[group][key], second[group][key]
                if key == 'points':
                    error = (expected - found).abs()
                    assert error[:, :3].max() < 2e-4 and error[:, 3].max() < 20 / 510 * 1.01
                elif key == 'depth':
                    assert (expected - found).abs().max() <= 1 / 128 + 1e-5
                elif key in ('grid_feature', 'future_grid_feature'):
                    pairs = zip(expected, found, strict=True)
                    assert all(torch.allclose(a, b, rtol=2**-11, atol=1e-7) for a, b in pairs)
                else:
                    assert torch.equal(expected, found), key


def test_lights_are_told_apart_before_the_colors_are_compressed(source: Path, destination: Path) -> None:
    pack(source, destination, EXACT)
    for index in range(len(dataset(source))):
        first, second = dataset(source)[index], dataset(destination)[index]
        if first['metas']['frame'] == 2 and first['metas']['town'] == 'town01_00':
            assert {9, 10, 11} & set(np.unique(first['targets']['seg']))
            assert torch.equal(first['targets']['seg'], second['targets']['seg'])
            return
    pytest.fail('the frame with lights is not among the samples')


def test_the_default_keeps_matrices_and_geometry(source: Path, destination: Path) -> None:
    pack(source, destination)
    calibration = load_calibration(DatasetStorage(destination))
    assert calibration.image_size == tiny_dataset.SIZE and calibration.stored_size < tiny_dataset.SIZE
    first, second = dataset(source, True)[2], dataset(destination, True)[2]
    for key in ('ida_mats', 'intrinsics', 'cam2ego', 'frame2key', 'speed', 'target_point', 'command'):
        assert torch.equal(first['inputs'][key], second['inputs'][key])
    agreeing = (first['targets']['seg'] == second['targets']['seg']).float().mean()
    assert agreeing > 0.5  # three random ids, one pixel each: chance would be a third


def test_the_real_rig_keeps_every_row_and_detail_that_training_reaches() -> None:
    rig = package_calibration()
    geometry = stored_geometry(rig, PackSettings())
    packed = packed_calibration(rig, geometry)
    assert geometry.resized == (720, 1280) and packed.stored_size == geometry.final_size
    rng = np.random.default_rng(0)
    for _ in range(200):
        drawn = draw_augmentation(rng, rig.image_size, (448, 896))
        positions = pixel_map(packed.cameras[0], drawn)
        height, width = packed.stored_size
        assert positions.y.min() >= 0 and positions.y.max() <= height - 0.5
        assert positions.x.min() >= -0.5 and positions.x.max() <= width - 0.5
        # Never enlarged: a step in the result is at least a step in the stored image.
        assert np.diff(positions.x[0]).__abs__().min() >= 1 and np.diff(positions.y[:, 0]).min() >= 1


def test_colors_of_the_real_sample_survive(shared_samples: Path) -> None:
    raw = cv2.imread(str(shared_samples / 'carla_front_raw.png'), cv2.IMREAD_COLOR_RGB)
    rig = package_calibration()
    settings = PackSettings()
    packer = FramePacker(rig, settings)
    geometry = stored_geometry(rig, settings)
    data = packer._encode_color(raw, pixel_map(rig.cameras[0], geometry))
    assert len(data) < 250_000
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    camera = packed_calibration(rig, geometry).cameras[0]
    rng = np.random.default_rng(0)
    augmentations = [center_augmentation((900, 1600), (448, 896))]
    augmentations += [draw_augmentation(rng, (900, 1600), (448, 896)) for _ in range(4)]
    for augmentation in augmentations:
        direct = pixel_map(rig.cameras[0], augmentation).sample(raw, cv2.INTER_LINEAR)
        through = pixel_map(camera, augmentation).sample(stored, cv2.INTER_LINEAR)
        assert cv2.PSNR(direct, through) > 41


def test_packing_twice_does_nothing_and_resumes_after_a_kill(source: Path, destination: Path) -> None:
    assert not any(report.was_done for report in pack(source, destination))
    whole = contents(destination)
    assert all(report.was_done for report in pack(source, destination))
    assert contents(destination) == whole
    # as after a kill: one route complete, the other begun, no metadata yet
    route = destination / 'town01_00/routes_a.zip'
    unfinished = route.with_name('.routes_a.zip.host.123.tmp')
    unfinished.write_bytes(route.read_bytes()[: route.stat().st_size // 2])
    route.unlink()
    (destination / 'dataset_metadata.json').unlink()
    done = {report.name: report.was_done for report in pack(source, destination)}
    assert done == {'town01_00/routes_a': False, 'town02_00/routes_b': True}
    assert contents(destination) == whole
    # a file that is torn all the same (a disk that lost what it had synced) is packed again
    route.write_bytes(route.read_bytes()[:-30])
    assert [report.was_done for report in pack(source, destination)] == [False, True]
    assert contents(destination) == whole


def test_several_processes_write_the_same_bytes(source: Path, destination: Path, tmp_path: Path) -> None:
    pack(source, destination)
    pack(source, tmp_path / 'parallel', workers=2)
    assert contents(destination) == contents(tmp_path / 'parallel')


def test_an_unfinished_dataset_does_not_pass_for_one(
    source: Path, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Any, *arguments: Any) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, 'writestr', full_disk)
        reports = pack(source, destination)
    assert all('No space left' in report.error for report in reports)
    with pytest.raises(FileNotFoundError):
        dataset(destination)
    assert not any(report.error for report in pack(source, destination))
    assert len(dataset(destination)) == len(dataset(source))


def test_damaged_source_files_are_listed_and_stay_damaged(source: Path, tmp_path: Path) -> None:
    broken, destination = tmp_path / 'broken', tmp_path / 'packed'
    shutil.copytree(source, broken)
    path = broken / 'town01_00/routes_a/rgb_left/0003.png'
    path.write_bytes(path.read_bytes()[:200])
    (broken / 'town02_00/routes_b/lidar/0002.npy').unlink()
    damaged = {f'{r.name}/{key}': why for r in pack(broken, destination) for key, why in r.damaged.items()}
    assert set(damaged) == {
        'town01_00/routes_a/rgb_left/0003',
        'town01_00/routes_a/seg_left/0003',
        'town02_00/routes_b/lidar/0002',
    }
    assert 'truncated PNG' in damaged['town01_00/routes_a/rgb_left/0003']
    reader = DatasetStorage(destination).route('town01_00', 'routes_a')
    with pytest.raises(SampleReadError, match='unusable when packed: .*truncated PNG'):
        reader.rgb('rgb_left', 3, (1, 1))
    assert {key for r in verify_dataset(str(destination)) for key in r.damaged} == {
        'rgb_left/0003',
        'seg_left/0003',
        'lidar/0002',
    }


def test_verification_finds_a_flipped_bit(source: Path, destination: Path) -> None:
    pack(source, destination)
    assert not any(report.damaged or report.error for report in verify_dataset(str(destination)))
    path = destination / 'town01_00/routes_a.zip'
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reports = {report.name: report for report in verify_dataset(str(destination))}
    assert len(reports['town01_00/routes_a'].damaged) == 1
    assert 'checksum' in next(iter(reports['town01_00/routes_a'].damaged.values()))
    assert not reports['town02_00/routes_b'].damaged


def test_other_settings_and_nested_folders_are_refused(source: Path, destination: Path) -> None:
    pack(source, destination)
    with pytest.raises(ValueError, match=r'packed\.json is of other settings'):
        pack(source, destination, EXACT)
    # also where the description of the dataset was removed
    whole = contents(destination)
    (destination / 'packed.json').unlink()
    (destination / 'calibration.json').unlink()
    assert not any(report.was_done for report in pack(source, destination, EXACT))
    assert contents(destination).keys() == whole.keys() and contents(destination) != whole
    for inside in (source / 'packed', source, source.parent):
        with pytest.raises(ValueError, match='inside each other'):
            pack(source, inside)
    with pytest.raises(ValueError, match='quality must be'):
        PackSettings(quality=0)


@pytest.fixture
def killed(source: Path, destination: Path) -> Iterator[Path]:
    """A destination whose packing was killed at some point."""
    command = [sys.executable, 'tools/pack_dataset.py', str(source), str(destination), '--workers', '1']
    root = Path(__file__).parents[2]
    process = subprocess.Popen([*command, '--final-size', '16', '32'], cwd=root)
    deadline = time.monotonic() + 60
    while not list(destination.glob('*/*')) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    yield destination


def test_a_killed_command_is_continued_to_the_same_bytes(source: Path, killed: Path, tmp_path: Path) -> None:
    pack(source, killed)
    pack(source, tmp_path / 'undisturbed')
    assert contents(killed) == contents(tmp_path / 'undisturbed')
    assert os.listdir(killed / 'town01_00') == ['routes_a.zip']
