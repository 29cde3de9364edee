"""Length of recorded routes: the published cases, on made-up trees."""

import builtins
import errno
import importlib.util
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import tiny_dataset

from thinktwice.command_line import run_command
from thinktwice.datasets import route_scan
from thinktwice.datasets.metadata import JSON_NAME, PICKLE_NAME, parse_json
from thinktwice.datasets.route_scan import RouteResult, last_motion, usable_frames

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'generate_metadata.py'
TOWN = 'town01_00'


def speeds(moving: int, stopped: int) -> list[float]:
    return [5.0] * moving + [0.0] * stopped


def result(score: float, *infractions: str) -> RouteResult:
    return RouteResult(score, frozenset(infractions))


CASES = [
    (result(100), speeds(40, 0), 40, 'complete'),
    (result(60, 'vehicle_blocked'), speeds(20, 80), 24, 'standstill'),
    (result(60, 'route_timeout'), speeds(98, 2), 100, 'standstill'),
    (result(60, 'vehicle_blocked'), speeds(0, 50), 5, 'standstill'),
    (result(60, 'collisions_vehicle'), speeds(30, 0), 20, 'accident'),
    (result(60, 'red_light'), speeds(6, 0), 0, 'accident'),
    (result(60, 'vehicle_blocked', 'collisions_layout'), speeds(20, 50), 24, 'standstill'),
    (result(80, 'stop_infraction'), speeds(30, 20), 34, 'unrated'),
    (None, speeds(25, 15), 29, 'unrated'),
    (None, speeds(10, 0), 0, 'short'),
    (None, speeds(40, 0), 30, 'unrated'),
]


@pytest.mark.parametrize(('route_result', 'speed', 'usable', 'rule'), CASES)
def test_published_lengths(
    route_result: RouteResult | None, speed: list[float], usable: int, rule: str
) -> None:
    assert usable_frames(len(speed), speed.__getitem__, route_result) == (usable, rule)


def test_only_the_speeds_that_decide_are_read() -> None:
    read: list[int] = []

    def speed_of(frame: int) -> float:
        read.append(frame)
        return 5.0 if frame < 7 else 0.0

    usable_frames(10, speed_of, result(100))
    assert read == []
    assert last_motion(speed_of, 10) == 6
    assert read == [9, 8, 7, 6]


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('generate_metadata', TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_route(root: Path, name: str, speed: list[float]) -> Path:
    route = root / name
    folders = [f'{kind}_{camera}' for kind in ('rgb', 'depth', 'seg') for camera in tiny_dataset.CAMERAS]
    for folder in (*folders, 'lidar', 'supervision', 'measurements'):
        (route / folder).mkdir(parents=True)
        suffix = {'lidar': 'npy', 'supervision': 'npy', 'measurements': 'json'}.get(folder, 'png')
        for frame, value in enumerate(speed):
            text = json.dumps({'speed': value, 'theta': float('nan')}) if suffix == 'json' else 'x'
            (route / folder / f'{frame:04d}.{suffix}').write_text(text)
    return route


def write_results(folder: Path, records: dict[str, tuple[float, list[str]]]) -> None:
    folder.mkdir(exist_ok=True)
    tree = {
        '_checkpoint': {
            'records': [
                {
                    'meta': {'folder_name': route},
                    'scores': {'score_composed': score},
                    'infractions': {kind: ['happened'] for kind in kinds} | {'route_dev': []},
                }
                for route, (score, kinds) in records.items()
            ]
        }
    }
    (folder / f'data_collect_{TOWN}_results.json').write_text(json.dumps(tree))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / 'dataset'
    root.mkdir()
    (root / 'calibration.json').write_text(json.dumps(tiny_dataset.calibration()))
    return root


def routes_of(root: Path) -> dict[str, dict[str, tuple[int, int, str]]]:
    metadata = parse_json((root / JSON_NAME).read_bytes(), 'x')
    return {
        town: {route: (r.frames, r.usable, r.rule) for route, r in routes.items()}
        for town, routes in metadata.towns.items()
    }


@pytest.mark.parametrize('beside', [True, False], ids=['results beside', 'results inside'])
def test_tool_finds_scores_all_indices_and_sorts_routes(root: Path, tool: ModuleType, beside: bool) -> None:
    write_route(root, f'{TOWN}/routes_z', speeds(20, 4))
    write_route(root, f'{TOWN}/routes_a', speeds(14, 0))
    write_route(root, 'town03_11/routes_b', speeds(12, 0))
    write_results((root.parent if beside else root) / 'collect_data_json', {'routes_z': (100, [])})
    assert run_command(tool.main, [str(root), '--workers', '1']) == 0
    found = routes_of(root)
    assert found == {
        TOWN: {'routes_a': (14, 4, 'unrated'), 'routes_z': (24, 24, 'complete')},
        'town03_11': {'routes_b': (12, 2, 'unrated')},
    }
    assert list(found[TOWN]) == ['routes_a', 'routes_z']
    pickled = pickle.loads((root / PICKLE_NAME).read_bytes())
    assert pickled[TOWN] == {f'../{TOWN}/routes_a': 4, f'../{TOWN}/routes_z': 24}


def test_workers_do_not_change_the_result(root: Path, tool: ModuleType) -> None:
    for i in range(5):
        write_route(root, f'{TOWN}/routes_{i}', speeds(12 + i, 0))
    run_command(tool.main, [str(root), '--workers', '1'])
    alone = (root / JSON_NAME).read_bytes()
    run_command(tool.main, [str(root), '--workers', '2'])
    assert (root / JSON_NAME).read_bytes() == alone


def test_usable_frames_end_where_a_needed_file_is_missing(root: Path, tool: ModuleType) -> None:
    route = write_route(root, f'{TOWN}/routes_a', speeds(30, 0))
    (route / 'lidar' / '0029.npy').unlink()
    (route / 'seg_left' / '0012.png').unlink()
    killed = write_route(root, f'{TOWN}/routes_b', speeds(30, 0))
    (killed / 'lidar' / '0029.npy').write_bytes(b'')
    write_results(root / 'collect_data_json', {'routes_a': (100, []), 'routes_b': (100, [])})
    run_command(tool.main, [str(root), '--workers', '1'])
    assert routes_of(root)[TOWN] == {'routes_a': (30, 12, 'complete'), 'routes_b': (30, 29, 'complete')}
    tree = json.loads((root / JSON_NAME).read_text())
    assert 'seg_left ends before frame 0012' in tree['incomplete_routes'][f'{TOWN}/routes_a']


def test_malformed_routes_and_scores_are_listed_not_fatal(
    root: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    write_route(root, f'{TOWN}/routes_a', speeds(30, 0))
    broken = write_route(root, f'{TOWN}/routes_b', speeds(30, 5))
    (broken / 'measurements' / '0022.json').write_text('{"speed": ')
    for i in (23, 24):
        (broken / 'measurements' / f'00{i}.json').write_text('{"speed": 0.0}')
    (root / TOWN / 'routes_c' / 'measurements').mkdir(parents=True)
    (root / TOWN / 'routes d').mkdir()
    (root / 'collect_data_json').mkdir()
    (root / 'collect_data_json' / f'data_collect_{TOWN}_results.json').write_text('{"_checkpoint": 3}')
    assert run_command(tool.main, [str(root), '--workers', '1']) == 0
    assert list(routes_of(root)[TOWN]) == ['routes_a']
    tree = json.loads((root / JSON_NAME).read_text())
    malformed: dict[str, Any] = tree['malformed_routes']
    assert set(malformed) == {f'{TOWN}/routes_b', f'{TOWN}/routes_c', f'{TOWN}/routes d'}
    assert 'supervision' in malformed[f'{TOWN}/routes_c']
    [unreadable] = tree['unreadable_results']
    assert unreadable.endswith('_results.json')
    assert 'measurements/0022.json' in malformed[f'{TOWN}/routes_b']
    assert 'Left out, malformed' in capsys.readouterr().out


def test_frames_without_a_heading_are_listed_on_demand(root: Path, tool: ModuleType) -> None:
    route = write_route(root, f'{TOWN}/routes_a', speeds(20, 0))
    for frame in range(20):
        theta = float('nan') if frame in (3, 15) else 0.5
        text = json.dumps({'speed': 5.0, 'theta': theta})
        (route / 'measurements' / f'{frame:04d}.json').write_text(text)
    run_command(tool.main, [str(root), '--workers', '1', '--check-headings'])
    record = parse_json((root / JSON_NAME).read_bytes(), 'x').towns[TOWN]['routes_a']
    assert (record.usable, record.invalid_frames) == (10, (3,))


def test_missing_folder_and_empty_dataset_end_with_a_message(
    root: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tool.main, [str(root / 'nowhere')]) == 1
    assert run_command(tool.main, [str(root)]) == 1
    assert run_command(tool.main, [str(root), '--results', str(root / 'nowhere')]) == 1
    errors = capsys.readouterr().err
    assert 'no such folder' in errors
    assert 'nothing written' in errors
    assert not (root / JSON_NAME).exists()


def test_metadata_of_a_read_only_dataset_go_to_another_folder(
    root: Path,
    tmp_path: Path,
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_route(root, f'{TOWN}/routes_a', speeds(20, 0))

    def refuse(path: Path, *args: object, **kwargs: object) -> Any:
        if root in Path(path).parents and 'dataset_metadata' in Path(path).name:
            raise OSError(errno.EROFS, 'Read-only file system', str(path))
        return original(path, *args, **kwargs)

    original = builtins.open
    monkeypatch.setattr(builtins, 'open', refuse)  # permissions do not stop root
    assert run_command(tool.main, [str(root), '--workers', '1']) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert 'Read-only file system' in line and '--metadata-dir' in line
    other = tmp_path / 'made' / 'metadata'
    assert run_command(tool.main, [str(root), '--workers', '1', '--metadata-dir', str(other)]) == 0
    assert parse_json((other / JSON_NAME).read_bytes(), 'x').towns[TOWN]['routes_a'].usable == 10
    assert not (root / JSON_NAME).exists()


def test_names_that_are_no_frames_are_not_counted(tmp_path: Path) -> None:
    for name in ('0000.png', '0001.png', '2.png', '.0002.png.tmp', 'x.png', '0003.png'):
        (tmp_path / name).write_text('x')
    assert route_scan._contiguous_frames(tmp_path) == 2
