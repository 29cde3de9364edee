"""Enumeration of samples: order, caps, windows, invalid frames."""

import logging
import pickle
from collections import Counter

import pytest
from helpers.commands import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from thinktwice.config.load import load_config
from thinktwice.datasets import splits
from thinktwice.datasets.metadata import DatasetMetadata, RouteRecord
from thinktwice.datasets.splits import SampleIndex, SplitSpec, build_index, key_frame_runs

CONFIGS = REPOSITORY / 'configs'

HISTORY, HORIZON = 1, 4


def metadata_of(**towns: list[int]) -> DatasetMetadata:
    return DatasetMetadata(
        {
            town: {f'route_{i}': RouteRecord(n, n) for i, n in enumerate(lengths)}
            for town, lengths in towns.items()
        }
    )


def samples(index: SampleIndex) -> list[tuple[str, str, int]]:
    return [index.locate(i) for i in range(len(index))]


def test_samples_follow_the_lists_and_the_metadata() -> None:
    metadata = metadata_of(town01_00=[7, 5, 6], town01_val=[6], town02_00=[9], town03_00=[6])
    split = SplitSpec(['town03', 'town01'], ['val', '00'])
    assert samples(build_index(metadata, split, HISTORY, HORIZON)) == [
        ('town03_00', 'route_0', 1),
        ('town01_val', 'route_0', 1),
        ('town01_00', 'route_0', 1),
        ('town01_00', 'route_0', 2),
        ('town01_00', 'route_2', 1),
    ]


@pytest.mark.parametrize(('length', 'count'), [(5, 0), (6, 1), (100, 95)])
def test_route_of_l_frames_gives_l_minus_five_samples(length: int, count: int) -> None:
    runs = key_frame_runs(RouteRecord(length, length), HISTORY, HORIZON)
    assert sum(number for _, number in runs) == count


def test_cap_is_exact_and_cuts_the_last_route() -> None:
    metadata = metadata_of(town01_00=[12, 100, 100])
    index = build_index(metadata, SplitSpec(['town01'], ['00'], 10), HISTORY, HORIZON)
    assert len(index) == 10
    assert samples(index)[6:] == [('town01_00', 'route_0', 7)] + [
        ('town01_00', 'route_1', t) for t in (1, 2, 3)
    ]


def test_cap_counts_over_all_indices_of_a_town() -> None:
    metadata = metadata_of(town01_val=[9], town01_00=[9], town02_00=[9], town05_00=[9])
    split = SplitSpec(['town01', 'town02', 'town05'], ['val', '00'], {'town01': 6, 'town02': 3})
    index = build_index(metadata, split, HISTORY, HORIZON)
    assert Counter(town[:6] for town, _, _ in samples(index)) == {'town01': 6, 'town02': 3, 'town05': 4}


FRAMES = st.sets(st.integers(0, 32), max_size=6)


@given(st.integers(0, 30), FRAMES, FRAMES, st.integers(0, 3), st.integers(0, 5))
def test_windows_touch_no_invalid_frame_and_no_disturbance_after_the_key_frame(
    usable: int, invalid: set[int], disturbed: set[int], history: int, horizon: int
) -> None:
    record = RouteRecord(40, usable, '', tuple(sorted(invalid)), tuple(sorted(disturbed)))
    brute = [
        t
        for t in range(usable)
        if all(0 <= f < usable and f not in invalid for f in range(t - history, t + horizon + 1))
        and disturbed.isdisjoint(range(t, t + horizon))
    ]
    runs = key_frame_runs(record, history, horizon)
    assert [first + i for first, length in runs for i in range(length)] == brute


def reported(monkeypatch: pytest.MonkeyPatch, metadata, towns, indices) -> list[tuple[str, int]]:
    lines: list[tuple[str, int]] = []

    def keep(message: str, logger: str, level: int = logging.INFO) -> None:
        lines.append((message, level))

    monkeypatch.setattr(splits, 'print_log', keep)
    assert len(build_index(metadata, SplitSpec(towns, indices), HISTORY, HORIZON)) == 4
    return lines


def test_unknown_town_is_warned_about_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = reported(monkeypatch, metadata_of(town01_00=[9]), ['town01', 'town99'], ['00'])
    assert [level for _, level in lines] == [logging.WARNING, logging.INFO]
    assert 'split names town99' in lines[0][0]
    assert 'it lists town01_00' in lines[0][0]


def test_town_with_few_drives_is_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    [(message, level)] = reported(monkeypatch, metadata_of(town01_00=[9]), ['town01'], ['val', '00', '01'])
    assert level == logging.INFO
    assert message.endswith('town01 1 of 3')


def test_complete_split_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reported(monkeypatch, metadata_of(town01_00=[9]), ['town01'], ['00']) == []


def test_split_without_samples_lists_what_there_is() -> None:
    metadata = metadata_of(town01_00=[5], town02_val=[90])
    with pytest.raises(ValueError, match=r'6 consecutive usable frames.*town01_00, town02_val.*town09_00'):
        build_index(metadata, SplitSpec(['town01', 'town09'], ['00']), HISTORY, HORIZON)


@pytest.mark.parametrize(
    'arguments',
    [
        ('town01', ['00']),
        (['town01'], '00'),
        (['town01'], ['00'], -1),
        (['town01'], ['00'], {'town01': 2.5}),
        (0, ['00']),
        (['town01'], ['00'], {'town1': 2}),
    ],
)
def test_malformed_split_is_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r'split\.(towns|indices|caps)'):
        SplitSpec(*arguments)


def test_index_outside_the_split_is_refused() -> None:
    index = build_index(metadata_of(town01_00=[9]), SplitSpec(['town01'], ['00']), HISTORY, HORIZON)
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match='outside 0..3'):
            index.locate(wrong)


def test_a_million_frames_pickle_small() -> None:
    routes = {f'routes_town01_00_07_15_{i:06d}': RouteRecord(205, 205) for i in range(5000)}
    index = build_index(DatasetMetadata({'town01_00': routes}), SplitSpec(['town01'], ['00']), 1, 4)
    assert len(index) == 1_000_000
    assert len(pickle.dumps(index)) < 500_000
    assert index.locate(999_999) == ('town01_00', 'routes_town01_00_07_15_004999', 200)


def test_no_split_takes_everything() -> None:
    metadata = metadata_of(town02_val=[6], town01_00=[7])
    assert samples(build_index(metadata, None, HISTORY, HORIZON)) == [
        ('town02_val', 'route_0', 1),
        ('town01_00', 'route_0', 1),
        ('town01_00', 'route_0', 2),
    ]


def test_caps_of_towns_of_other_splits_are_ignored() -> None:
    assert SplitSpec(['town01'], ['00'], {'town01': 2, 'town02': 3}).caps['town01'] == 2


@pytest.mark.parametrize('options', [{}, {'is_full': True}, {'is_dev': True}])
@pytest.mark.parametrize('name', ['thinktwice', 'thinktwice_minitown', 'thinktwice_bench2drive'])
def test_the_splits_of_the_shipped_configs_are_accepted(name: str, options: dict) -> None:
    cfg = load_config(CONFIGS / f'{name}.py', options)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        SplitSpec(**loader.dataset.split)
