"""The tools over datasets as a user runs them: pack, check, browse, benchmark."""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers import tiny_dataset
from helpers.commands import command
from helpers.tiny_data_config import write_config

from thinktwice.datasets import CarlaDataset
from thinktwice.datasets.metadata import load_metadata
from thinktwice.datasets.storage import DatasetStorage

ROUTES = {'town01_00/routes_a': 8, 'town02_00/routes_b': 7}
SMALL = ['--final-size', '16', '32', '--workers', '1']


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_dataset.write_dataset(tmp_path / 'dataset', ROUTES)


def tool(name: str) -> Callable[[Sequence[str]], int]:
    return command(f'tools/{name}.py')


def test_pack_and_verify(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = tool('pack_dataset')
    packed = str(tmp_path / 'packed')
    assert pack([str(root), packed, *SMALL, '--verify']) == 0
    output = capsys.readouterr().out
    assert 'packed: 2 routes (0 were done before), 15 frames' in output
    assert 'verified: 2 routes' in output
    assert pack([str(root), packed, *SMALL]) == 0
    assert '(2 were done before)' in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / 'packed/town01_00/routes_a.zip') as archive:
        archive.extractall(tmp_path)
    image = cv2.imread(str(tmp_path / 'rgb_front/0007.jpg'))
    calibration = json.loads((tmp_path / 'packed/calibration.json').read_text())
    assert list(image.shape[:2]) == calibration['stored_size']


def test_pack_says_what_is_wrong(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = tool('pack_dataset')
    for arguments, message in (
        ([str(tmp_path / 'nothing'), str(tmp_path / 'p')], 'dataset_metadata.json'),
        ([str(root), str(root / 'inside')], 'inside each other'),
        ([str(root), str(tmp_path / 'p'), '--quality', '0'], 'quality must be'),
    ):
        assert pack(arguments) == 1
        assert message in capsys.readouterr().err
    (root / 'town01_00/routes_a/lidar/0003.npy').write_bytes(b'')
    assert pack([str(root), str(tmp_path / 'packed'), *SMALL]) == 1
    assert 'lidar/0003: ' in capsys.readouterr().out


def test_check_reports_and_repairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tiny_dataset.write_dataset(
        tmp_path / 'dataset', {'town01_00/routes_a': 12, 'town02_00/routes_b': 12}
    )
    check = tool('check_dataset')
    assert check([str(root), '--workers', '1']) == 0
    (root / 'town01_00/routes_a/rgb_left/0003.png').write_bytes(b'nonsense')
    (root / 'town01_00/routes_a/lidar/0011.npy').unlink()
    tiny_dataset.change_measurements(root, 'town02_00/routes_b', 2, theta=float('nan'))
    report = tmp_path / 'new folder' / 'report.json'
    before = (root / 'dataset_metadata.json').read_bytes()
    assert check([str(root), '--workers', '2', '--report', str(report)]) == 1
    output = capsys.readouterr().out
    assert 'rgb_left/0003.png: not a PNG file' in output and 'theta is NaN' in output
    assert (root / 'dataset_metadata.json').read_bytes() == before, 'written on demand only'
    problems = json.loads(report.read_text())['problems']
    assert problems['town01_00/routes_a'].keys() == {'3', '11'}
    assert problems['town02_00/routes_b'].keys() == {'2'}
    assert check([str(root), '--workers', '1', '--repair']) == 1
    towns = load_metadata(DatasetStorage(root), str(root)).towns
    first, second = towns['town01_00']['routes_a'], towns['town02_00']['routes_b']
    assert (first.usable, first.invalid_frames, first.rule) == (11, (3,), 'complete, repaired')
    assert (second.usable, second.invalid_frames) == (12, (2,))
    samples = CarlaDataset(root, tiny_dataset.pipeline(), on_error='raise')
    assert len(samples) > 3 and not any(sample['metas']['skipped'] for sample in samples)


def test_check_refuses_what_it_can_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = tool('check_dataset')
    assert check([str(tmp_path)]) == 1
    assert 'dataset_metadata.json' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        check(['http://127.0.0.1:9/dataset', '--repair'])
    assert '--metadata-dir' in capsys.readouterr().err


@pytest.mark.parametrize('form', ['raw', 'packed'])
def test_browse_draws_pictures_and_a_page(
    root: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == 'packed':
        assert tool('pack_dataset')([str(root), str(tmp_path / 'packed'), *SMALL]) == 0
        root = tmp_path / 'packed'
    out = tmp_path / 'pictures'
    config = write_config(tmp_path, root)
    assert tool('browse_dataset')([str(config), '--index', '1', '3', '--out', str(out), '--html']) == 0
    names = sorted(path.name for path in out.glob('*.png'))
    assert names == ['000001_epoch0.png', '000003_epoch0.png']
    picture = cv2.imread(str(out / names[0]))
    # Two groups of a caption and three rows of cameras 400 pixels wide.
    assert picture.shape[1] > 800 and picture.shape[0] > 6 * 200
    page = (out / 'index.html').read_text()
    assert all(name in page for name in names) and 'town01_00/routes_a/0002' in page
    assert 'command:' in capsys.readouterr().out


def test_browse_names_wrong_arguments(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, root)
    for arguments, message in (
        (['--index', '999'], 'samples 0 to'),
        (['--split', 'val'], 'no val_dataloader'),
        (['--data-root', str(tmp_path / 'nowhere')], 'nowhere'),
    ):
        assert tool('browse_dataset')([str(config), '--out', str(tmp_path), *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['browse_dataset'], ['benchmark', 'loader']])
def test_tools_for_one_dataset_refuse_several(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    config = tmp_path / 'several.py'
    dataset = '{{_base_.train_dataloader.dataset}}'
    config.write_text(
        f'_base_ = [{str(write_config(tmp_path, root))!r}]\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, "
        f'dataset={dataset}))\n'
    )
    name, *others = arguments
    assert tool(name)([*others, str(config)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'train_dataloader.dataset' in line and 'one CarlaDataset' in line


def test_benchmark_compares_formats_and_workers(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / 'packed'
    assert tool('pack_dataset')([str(root), str(packed), *SMALL]) == 0
    capsys.readouterr()
    figures = tmp_path / 'new folder' / 'figures.json'
    arguments = ['loader', str(write_config(tmp_path, root)), '--data-root', str(root), str(packed)]
    arguments += ['--workers', '0', '1', '--samples', '4', '--json', str(figures)]
    assert tool('benchmark')(arguments) == 0
    output = capsys.readouterr().out
    for data in (root, packed):
        for workers in (0, 1):
            row = rf'^\| {data} +\| {workers} +\| [\d.]+ +\| [\d.]+ +\| \d+ +\|$'
            assert re.search(row, output, re.MULTILINE)
    assert re.search(r'^\| reader.rgb +\| [\d.]+ +\| [\d.]+ +\|$', output, re.MULTILINE)
    timings: list[dict[str, Any]] = json.loads(figures.read_text())
    assert [timing['samples'] for timing in timings] == [4] * 4
    stages = timings[0]['stages']
    assert {'reader.rgb', 'reader.supervision', 'LoadCameras', 'PackSample'} <= set(stages)
    assert stages['reader.rgb'] < stages['LoadCameras']
    steps = [seconds for stage, seconds in stages.items() if not stage.startswith('reader.')]
    assert 0 < sum(steps) <= timings[0]['seconds'] / 4 * 1.01
