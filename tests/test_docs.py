"""What the pages of the documentation say is what the code has: commands, flags, configs, keys."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from mmengine.config import Config

from thinktwice.config.keys import READ_KEYS
from thinktwice.config.load import load_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / 'docs').glob('*.md'), ROOT / 'README.md', ROOT / 'CONTRIBUTING.md'])
CALL = re.compile(
    r'(?:^|\s)(?:python|bash|torchrun)(?:\s+(?!\S*\.py)\S+)*?\s+((?:tools/\w+|train)\.(?:py|sh))(.*)'
)
FENCES = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language; commands have none."""
    text = page.read_text(encoding='utf-8')
    return [block for name, block in FENCES.findall(text) if name == language]


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Scripts of the project that the blocks of a page call, with all that follows."""
    for block in blocks(page, ''):
        for line in block.replace('\\\n', ' ').splitlines():
            if call := CALL.search(line):
                yield call.group(1), call.group(2)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_and_their_flags_exist(page: Path) -> None:
    shared = (ROOT / 'code' / 'command_line.py').read_text() + (ROOT / 'train.py').read_text()
    for script, arguments in commands(page):
        source = (ROOT / script).read_text(encoding='utf-8') + shared
        flags = re.findall(r'(?<=\s)--[a-z][\w-]*', arguments)
        assert not [flag for flag in flags if f"'{flag}'" not in source], (script, arguments)
        configs = re.findall(r'(?<=\s)configs/\S+\.py', arguments)
        assert not [config for config in configs if not (ROOT / config).is_file()], arguments


def test_the_check_of_commands_sees_flags(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('```\nFOO=1 torchrun --n 2 train.py a.py \\\n  --resume\n```\n`python tools/inline.py`\n')
    assert [(script, arguments.split()) for script, arguments in commands(page)] == [
        ('train.py', ['a.py', '--resume'])
    ]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_python_blocks_are_python_and_configs_load(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, 'python'):
        compile(block, str(page), 'exec')
        if not block.startswith('_base_') or 'custom_imports' in block:
            continue
        base = re.match(r'_base_ = \[[^]]+\]', block)
        assert base, block
        file = tmp_path / 'config.py'
        here = re.sub(r"'(?:configs/)?([\w/]+\.py)'", rf"'{ROOT}/configs/\1'", base.group(0))
        file.write_text(block.replace(base.group(0), here))
        assert load_config(file).model


@pytest.fixture(scope='module')
def reference() -> ModuleType:
    """The module that writes the pages of config keys."""
    file = ROOT / 'docs' / 'config_reference.py'
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def rows(reference: ModuleType) -> dict[str, list[str]]:
    """Cells of the rows of the pages, by dotted key."""
    found: dict[str, list[str]] = {}
    for name, page in reference.pages().items():
        part = ''
        for line in page.splitlines() if name != 'config_parts.md' else ():
            if line.startswith('## '):
                heading = re.match(r'## `([\w.]+)`', line)
                part = f'{heading.group(1)}.' if heading else ''
            elif line.startswith(('| `', '| *`')):
                spans = re.sub(r'`[^`]*`', lambda code: code.group().replace('|', '¦'), line)
                key, *cells = (cell.strip(' `*') for cell in re.split(r'(?<!\\)\|', spans)[1:-1])
                found[part + key] = cells
    return found


def test_every_key_of_the_config_has_a_row(rows: dict[str, list[str]]) -> None:
    def leaves(node: Any, path: str) -> Iterator[str]:
        items = {}
        if isinstance(node, dict):
            items = dict(node)
        elif isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
            items = dict(enumerate(node))
        elif not path.endswith('.type'):
            yield path
        for key, value in items.items():
            yield from leaves(value, f'{path}.{key}' if path else str(key))

    cfg = Config.fromfile(ROOT / 'configs' / 'thinktwice.py')
    keys = {key for key in leaves(cfg.to_dict(), '') if not key.startswith(('_', 'data_modes.'))}
    assert len(keys) > 200
    assert not sorted(keys - rows.keys())
    assert 'data_modes' in rows
    assert {*READ_KEYS} <= {key.partition('.')[0] for key in rows}


@pytest.mark.parametrize(
    ('key', 'kind', 'unit', 'default'),
    [
        ('x_range', 'tuple[float, ...]', 'm', '(-5.386, 28.39)'),
        ('speed_scale', 'float', 'm/s', '12'),
        ('image_size', 'tuple[int, ...]', 'pixels', '(448, 896)'),
        ('warmup_iters', 'int', 'steps', '1000'),
        ('train_cfg.max_epochs', 'int', 'epochs', '60'),
        ('env_cfg.dist_cfg.timeout_minutes', 'float >= 0', 'minutes', '30'),
        ('default_hooks.checkpoint.interval_minutes', 'float >= 0 ¦ None', 'minutes', 'None'),
        ('default_hooks.checkpoint.keep_last_iters', 'int', '', '2'),
        ('model.img_encoder.depth_net.aspp_dropout', 'float', '', '0.5'),
        ('custom_hooks.3.max_share', 'float', '', '0.01'),
        ('work_dir', 'str ¦ None', '', ''),
    ],
)
def test_rows_have_type_unit_and_default(
    rows: dict[str, list[str]], key: str, kind: str, unit: str, default: str
) -> None:
    assert rows[key][:3] == [kind, unit, default]
    assert rows[key][3]


def test_keys_of_this_package_are_described(rows: dict[str, list[str]]) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'thinktwice.py')
    top = [key for key in rows if '.' not in key and key in cfg]
    assert not [key for key in top if not rows[key][3]]


def test_other_parts_are_listed(reference: ModuleType) -> None:
    page = reference.pages()['config_parts.md']
    for name in ('TCPHead', 'GRUPlanner', 'ConcatDataset', 'ReferenceLidarEncoder'):
        assert f'### {name}\n' in page
    assert '### ThinkTwiceDecoder\n' not in page


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))

    def pages(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from pages(child)

    assert {page.name for page in (ROOT / 'docs').glob('*.md')} <= set(pages(site['nav']))


def test_bug_reports_ask_for_the_environment() -> None:
    form = yaml.safe_load((ROOT / '.github/ISSUE_TEMPLATE/bug.yml').read_text(encoding='utf-8'))
    (field,) = (item for item in form['body'] if item.get('id') == 'environment')
    assert 'python tools/print_env.py' in field['attributes']['description']
    assert field['validations'] == {'required': True}
