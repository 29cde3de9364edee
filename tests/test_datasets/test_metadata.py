"""Metadata files: both forms, and what is refused."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from thinktwice.datasets.metadata import (
    JSON_NAME,
    PICKLE_NAME,
    DatasetMetadata,
    RouteRecord,
    load_metadata,
    parse_json,
    parse_pickle,
    save_metadata,
)
from thinktwice.datasets.storage import DatasetStorage, SampleReadError

METADATA = DatasetMetadata(
    {
        'town01_00': {
            'routes_b': RouteRecord(30, 20, 'collision', (3, 7)),
            'routes_a': RouteRecord(12, 12, 'complete'),
        },
        'town02_val': {},
    }
)


def json_of(**changes: object) -> str:
    record = {'frames': 20, 'usable': 10, 'rule': 'complete', **changes}
    return json.dumps({'schema_version': 1, 'towns': {'town01_00': {'routes_a': record}}})


def test_json_round_trip_keeps_order(tmp_path: Path) -> None:
    save_metadata(METADATA, tmp_path, missing_results=['x.json'])
    loaded = load_metadata(DatasetStorage(tmp_path), str(tmp_path))
    assert loaded == METADATA
    assert list(loaded.towns['town01_00']) == ['routes_b', 'routes_a']
    assert sorted(os.listdir(tmp_path)) == [JSON_NAME, PICKLE_NAME]


def test_pickle_is_read_where_there_is_no_json(tmp_path: Path) -> None:
    save_metadata(METADATA, tmp_path)
    (tmp_path / JSON_NAME).unlink()
    loaded = load_metadata(DatasetStorage(tmp_path), str(tmp_path))
    assert {route: record.usable for route, record in loaded.towns['town01_00'].items()} == {
        'routes_b': 20,
        'routes_a': 12,
    }


def test_pickle_has_the_published_form(tmp_path: Path) -> None:
    _, path = save_metadata(METADATA, tmp_path)
    assert pickle.loads(path.read_bytes()) == {
        'town01_00': {'../town01_00/routes_b': 20, '../town01_00/routes_a': 12},
        'town02_val': {},
    }


def test_missing_metadata_says_how_to_get_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'has no dataset_metadata\.json') as caught:
        load_metadata(DatasetStorage(tmp_path), str(tmp_path))
    for hint in ('generate_metadata.py', 'data_root', 'record_minitown.py'):
        assert hint in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'not a valid JSON file'),
        ('[]', 'expected an object with the keys'),
        pytest.param('[' * 100_000, 'not a valid JSON file', id='nested without end'),
        ('{"schema_version": 1, "towns": {"t_0": {"a": {}, "a": {}}}}', "the key 'a' occurs twice"),
        ('{"schema_version": 7, "towns": {}}', 'schema_version is 7'),
        ('{"schema_version": 1, "towns": {"town01_00": [1]}}', r'towns\.town01_00 must be an object'),
        ('{"schema_version": 1, "towns": {"../secret": {}}}', r"refused the name '\.\./secret'"),
        ('{"schema_version": 1, "towns": {"t_0": {"../../etc": {}}}}', r"refused the name '\.\./\.\./etc'"),
        ('{"schema_version": 1, "towns": {"t_0": {"a/b": {}}}}', 'refused the name'),
        ('{"schema_version": 1, "towns": {"t_0": {"..": {}}}}', 'refused the name'),
        (json_of(usable=-1), r'town01_00/routes_a\.usable: expected a number of frames'),
        (json_of(usable='9'), r'routes_a\.usable'),
        (json_of(usable=True), r'routes_a\.usable'),
        (json_of(usable=21), 'usable is 21 but there are only 20'),
        (json_of(invalid_frames=[1.5]), r'invalid_frames'),
    ],
)
def test_malformed_json_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text.encode(), 'root/meta.json')
    assert 'root/meta.json' in str(caught.value)


def test_byte_order_mark_and_numpy_counts_are_accepted(tmp_path: Path) -> None:
    (tmp_path / JSON_NAME).write_text(json_of(), encoding='utf-8-sig')
    assert load_metadata(DatasetStorage(tmp_path), 'root').towns['town01_00']['routes_a'].usable == 10
    pickled = pickle.dumps({'town01_00': {'../town01_00/routes_a': np.int64(70)}})
    record = parse_pickle(pickled, 'meta.pkl').towns['town01_00']['routes_a']
    assert record.usable == 70 and type(record.usable) is int


@pytest.mark.parametrize(
    'folder', ['../town02_00/r', '../../town01_00/r', '/etc/passwd', '../town01_00/../x', '../town01_00', 7]
)
def test_pickled_route_outside_its_town_is_refused(folder: object) -> None:
    with pytest.raises(ValueError, match='refused'):
        parse_pickle(pickle.dumps({'town01_00': {folder: 5}}), 'meta.pkl')


def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / 'ran'

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(target),)

    with pytest.raises(SampleReadError, match=r'(posix|nt)\.mkdir'):
        parse_pickle(pickle.dumps({'town01_00': Payload()}), 'meta.pkl')
    assert not target.exists()
