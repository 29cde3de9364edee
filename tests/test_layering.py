"""The rules that keep the package easy to change, checked on its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / 'code'
FOUNDATION = {'errors', 'files', 'registry', 'tables', 'version'}
PARTS = {'datasets', 'model_code', 'encoder_decoder_framework', 'core'}

COMMANDS = {'command_line', 'number_flags', 'start'}

#: What each part of the package may import of it, besides itself. Imports point one way.
ALLOWED = {
    'errors': set(),
    'files': {'errors'},
    'version': set(),
    'environment': set(),
    'registry': {'errors'},
    'tables': set(),
    'number_flags': set(),
    'start': {'environment', 'errors', 'command_line'},
    'command_line': FOUNDATION | {'datasets', 'distributed'},
    'geometry': FOUNDATION,
    'checkpoint': FOUNDATION,
    'distributed': FOUNDATION,
    'config': FOUNDATION | COMMANDS | {'distributed'},
    'datasets': FOUNDATION | {'geometry', 'checkpoint', 'distributed', 'config'},
    'model_code': FOUNDATION | {'geometry', 'checkpoint', 'distributed', 'config'},
    'minitown': FOUNDATION | {'geometry'},
    'encoder_decoder_framework': FOUNDATION | {'geometry', 'model_code'},
    'release_2023': FOUNDATION | {'geometry', 'checkpoint', 'distributed', 'config'} | PARTS - {'core'},
    'core': FOUNDATION
    | {'environment', 'geometry', 'checkpoint', 'distributed', 'config', 'release_2023'}
    | PARTS,
    'closed_loop': FOUNDATION | {'geometry', 'datasets', 'model_code', 'minitown'},
    'benchmark': FOUNDATION | {'geometry', 'checkpoint', 'distributed', 'config'} | PARTS,
    'apis': FOUNDATION
    | COMMANDS
    | {'environment', 'geometry', 'checkpoint', 'distributed', 'config', 'release_2023', 'benchmark'}
    | PARTS,
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


def part_of(dotted: str) -> str:
    return dotted.split('.')[1] if '.' in dotted else ''


def test_imports_point_one_way() -> None:
    violations = []
    for path in CODE_FILES:
        part = path.relative_to(CODE).parts[0].removesuffix('.py')
        assert part in ALLOWED, f'{part} has no place in the layers: add it to ALLOWED'
        for line, name in own_imports(path):
            if part_of(name) not in ALLOWED[part] | {part}:
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
def test_models_losses_and_pipelines_know_nothing_of_processes(folder: str) -> None:
    distributed = re.compile(r'torch\.distributed|mmengine\.dist|from torch import .*\bdistributed\b')
    users = [
        path for path in (CODE / folder).rglob('*.py') if distributed.search(path.read_text(encoding='utf-8'))
    ]
    assert not users


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding='utf-8').splitlines()) for path in PYTHON_FILES}
    too_long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > 400}
    assert not too_long


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """The body of a function without its docstring."""
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def test_no_function_has_more_than_80_lines_of_statements() -> None:
    long = []
    for path in CODE_FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and statements(node):
                lines = (node.end_lineno or 0) - statements(node)[0].lineno + 1
                if lines > 80:
                    long.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines')
    assert not long, '\n'.join(long)


def test_every_folder_with_code_is_a_package_but_the_root() -> None:
    assert not (CODE / '__init__.py').exists(), 'code/__init__.py would hide the standard library'
    folders = {path.parent for path in CODE_FILES} - {CODE}
    assert not [folder for folder in folders if not (folder / '__init__.py').exists()]
