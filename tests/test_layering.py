"""The rules that keep the package easy to change, checked on its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / 'code'
#: The parts of the package from the top down. Each imports only from those of lower floors; parts of one
#: floor do not import each other.
FLOORS = (
    ('__main__', 'apis'),
    ('benchmark', 'closed_loop'),
    ('core',),
    ('release_2023',),
    ('encoder_decoder_framework',),
    ('datasets', 'model_code'),
    ('minitown',),
    ('config',),
    ('command_line',),
    ('distributed', 'checkpoint', 'geometry'),
    ('registry', 'files'),
    ('errors', 'environment', 'tables', 'version'),
)
#: Parts that may import less than their floor allows.
NARROW = {
    'closed_loop': {
        *(
            'core.visualization',
            'datasets',
            'model_code',
            'minitown',
            'geometry',
            'registry',
            'files',
            'errors',
        ),
    },
    'encoder_decoder_framework': {'model_code', 'geometry', 'registry', 'errors'},
    'datasets': {'geometry', 'registry', 'files', 'errors'},
    'model_code': {'geometry', 'registry', 'errors'},
    'minitown': {'datasets.storage', 'geometry', 'files', 'errors'},
    'geometry': {'errors'},
    'environment': set(),
    'checkpoint': {'files', 'errors'},
    'release_2023': {
        'encoder_decoder_framework',
        'datasets',
        'model_code',
        'config',
        'checkpoint',
        'geometry',
        'registry',
        'errors',
    },
}
#: The same for the rooms of the town.
TOWN_ROOMS = {
    'world': set(),
    'traffic': {'world'},
    'sensors': {'world'},
    'expert': {'world', 'traffic'},
    'drive': {'world', 'traffic', 'expert'},
    'recording': {'world', 'traffic', 'sensors', 'expert', 'drive'},
}
PYTHON_FILES = sorted(
    path
    for folder in ('code', 'configs', 'tests', 'tools')
    for path in (ROOT / folder).rglob('*.py')
    if '__pycache__' not in path.parts
) + [ROOT / 'train.py', ROOT / 'setup.py']
CODE_FILES = [path for path in PYTHON_FILES if CODE in path.parents]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of our package in a file, relative ones resolved."""
    package = ['thinktwice', *path.relative_to(CODE).parent.parts]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            names = [f'{module}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split('.')[0] == 'thinktwice')


def allowed(part: str) -> set[str]:
    """What a part may import besides itself."""
    floor = next((index for index, parts in enumerate(FLOORS) if part in parts), None)
    assert floor is not None, f'{part} has no place in the layers: add it to FLOORS'
    return NARROW.get(part, {lower for parts in FLOORS[floor + 1 :] for lower in parts})


def test_imports_point_one_way() -> None:
    violations = []
    for path in CODE_FILES:
        part = path.relative_to(CODE).parts[0].removesuffix('.py')
        names = allowed(part) | {part}
        for line, name in own_imports(path):
            if not any(f'{name}.'.startswith(f'thinktwice.{other}.') for other in names):
                violations.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert not violations, '\n'.join(violations)


def test_imports_between_rooms_of_the_town_point_one_way() -> None:
    violations = []
    for path in sorted((CODE / 'minitown').rglob('*.py')):
        room = path.relative_to(CODE / 'minitown').parts[0].removesuffix('.py')
        for line, name in own_imports(path) if room != '__init__' else ():
            imported = name.removeprefix('thinktwice.minitown.').split('.')[0]
            if name.startswith('thinktwice.minitown') and imported not in TOWN_ROOMS[room] | {room}:
                violations.append(f'{path.relative_to(ROOT)}:{line} imports {name}')
    assert not violations, '\n'.join(violations)


def test_the_rule_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), 'CODE', tmp_path)
    file = tmp_path / 'datasets' / 'pipelines' / 'step.py'
    file.parent.mkdir(parents=True)
    file.write_text(
        'import numpy\nimport thinktwice.apis.train\nfrom thinktwice import core\n'
        'from ...model_code.ops import splat\n'
        'def late():\n    from ..storage import read\n'
    )
    assert [name for _, name in own_imports(file)] == [
        'thinktwice.apis.train',
        'thinktwice.core',
        'thinktwice.model_code.ops.splat',
        'thinktwice.datasets.storage.read',
    ]


@pytest.mark.parametrize('folder', ['model_code', 'datasets/pipelines', 'geometry'])
def test_models_losses_and_pipelines_do_not_import_distributed(folder: str) -> None:
    distributed = re.compile(r'torch\.distributed|mmengine\.dist|from torch import .*\bdistributed\b')
    users = [
        path for path in (CODE / folder).rglob('*.py') if distributed.search(path.read_text(encoding='utf-8'))
    ]
    assert not users


def test_every_folder_with_code_is_a_package_but_the_root() -> None:
    assert not (CODE / '__init__.py').exists(), 'code/__init__.py would hide the standard library'
    folders = {path.parent for path in CODE_FILES} - {CODE}
    assert not [folder for folder in folders if not (folder / '__init__.py').exists()]
