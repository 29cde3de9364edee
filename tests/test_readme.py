"""What the documents name exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / 'README.md'


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md'])
def test_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding='utf-8')
    links = re.findall(r'\]\((?!http)([^)#]+)\)', text)
    named = re.findall(r'(?<![\w/])((?:code|configs|tools|docs|tests)/[\w/]+\.(?:py|md))', text)
    # files that the worked examples invite to write
    examples = {'tiny_backbone', 'smoothness', 'drop_points', 'miss_rate'}
    paths = {path for path in [*links, *named] if Path(path).stem.removeprefix('test_') not in examples}
    assert paths
    assert not sorted(path for path in paths if not (ROOT / path).exists())


@pytest.mark.parametrize(
    'document', ['README.md', 'CONTRIBUTING.md', '.github/workflows/ci.yml', '.github/workflows/slow.yml']
)
def test_make_targets_that_are_named_exist(document: str) -> None:
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))
    text = (ROOT / document).read_text(encoding='utf-8')
    named = re.findall(r'(?:^|`|run: )make ([a-z-]+)', text, re.MULTILINE)
    assert set(named) <= targets
    assert {'setup', 'test'} & set(named)


@pytest.fixture(scope='module')
def examples() -> Iterator[dict[str, Any]]:
    """The classes of CONTRIBUTING.md's worked examples, by name."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    blocks = re.findall(r'```python\n(# code/.*?)```', text, re.DOTALL)
    namespaces: dict[str, Any] = {}
    for block in blocks:  # each is a file of its own
        own: dict[str, Any] = {}
        exec(block, own)
        namespaces |= own
    yield namespaces
    for registry, name in (
        ('MODELS', 'TinyBackbone'),
        ('MODELS', 'SmoothnessLoss'),
        ('TRANSFORMS', 'DropPoints'),
        ('METRICS', 'MissRate'),
    ):
        namespaces[registry].module_dict.pop(name)


def test_the_example_backbone_halves_the_size_level_by_level(examples: dict[str, Any]) -> None:
    maps = examples['MODELS'].build({'type': 'TinyBackbone', 'widths': [4, 6]})(torch.rand(2, 3, 16, 24))
    assert [tuple(level.shape) for level in maps] == [(2, 4, 8, 12), (2, 6, 4, 6)]


def test_the_example_loss_is_zero_on_a_straight_line(examples: dict[str, Any]) -> None:
    loss = examples['MODELS'].build({'type': 'SmoothnessLoss', 'weight': 3.0})
    line = torch.arange(4.0).view(1, 1, 4, 1).expand(2, 3, 4, 2)
    assert loss({'pred_waypoints': line}, {}) == {'loss_smoothness': torch.tensor(0.0)}
    assert loss({'pred_waypoints': line**2}, {})['loss_smoothness'] == 6.0


def test_the_example_step_drops_the_same_points_for_the_same_generator(examples: dict[str, Any]) -> None:
    step = examples['TRANSFORMS'].build({'type': 'DropPoints', 'share': 0.25})
    points = np.random.rand(4000, 5)
    kept = [step({'points': points, 'rng': np.random.default_rng(7)})['points'] for _ in range(2)]
    assert np.array_equal(*kept)
    assert 2900 < len(kept[0]) < 3100


def test_the_example_metric_counts_misses(examples: dict[str, Any]) -> None:
    metric = examples['METRICS'].build({'type': 'MissRate', 'distance': 1.0})
    samples = [{'waypoints': torch.zeros(4, 2)} for _ in range(4)]
    true = torch.zeros(4, 4, 2)
    true[0, -1] = 5.0
    true[1, 0] = 5.0
    metric.process({'targets': {'waypoints': true}}, samples)
    assert metric.evaluate(4) == {'open_loop/miss_rate': 0.25}


def test_the_lines_from_python_run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinktwice.apis import init_model
    from thinktwice.minitown import record

    folder = tmp_path_factory.mktemp('clone')
    (folder / 'configs').symlink_to(ROOT / 'configs')
    record(folder / 'dataset/minitown', routes=1, frames=7, size=(48, 64), towns=['town02_00'])
    (folder / 'work_dirs/demo').mkdir(parents=True)
    model = init_model(ROOT / 'configs/thinktwice_minitown.py')
    torch.save({'state_dict': model.state_dict()}, folder / 'work_dirs/demo/epoch_4.pth')
    monkeypatch.chdir(folder)
    text = README.read_text(encoding='utf-8')
    (block,) = re.findall(r'```python\n(from thinktwice.apis .*?)```', text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names['prediction']['waypoints'].shape == (4, 2)
    assert names['picture'].dtype == np.uint8
    assert names['picture'].ndim == 3


@pytest.mark.slow
def test_the_example_config_swaps_the_backbone(tmp_path: Path) -> None:
    from thinktwice.config.load import load_config
    from thinktwice.registry import MODELS

    (block,) = re.findall(r'```python\n(_base_ .*?)```', README.read_text(encoding='utf-8'), re.DOTALL)
    file = tmp_path / 'regnet.py'
    file.write_text(
        block.replace("'thinktwice_minitown.py'", f'{str(ROOT / "configs/thinktwice_minitown.py")!r}')
    )
    encoder = MODELS.build(load_config(str(file)).model.img_encoder)
    assert type(encoder.backbone).__name__ == 'RegNet'
    levels = encoder.neck(encoder.backbone(torch.rand(1, 3, 64, 128)))
    assert len({level.shape[1] for level in levels}) == 1
