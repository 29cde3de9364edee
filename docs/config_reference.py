"""The pages of all config keys: type, unit, default and meaning, read from the configs and the code.

A key of a part (a dict with ``type``) has the type and the meaning of that argument of its class, any other
key the type that ``thinktwice.config.keys`` declares or that of its value. The comment beside it follows.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

from mmengine.config import Config
from mmengine.registry import Registry

from thinktwice import registry
from thinktwice.config import keys

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / 'configs' / 'thinktwice.py'
HEADER = '| key | type | unit | default | meaning |\n| --- | --- | --- | --- | --- |\n'
UNITS = {
    r'm/s': 'm/s',
    r'm|meters': 'm',
    r'degrees': 'degrees',
    r'radians|rad': 'rad',
    r'pixels': 'pixels',
    r'[Ss]econds|s': 's',
    r'[Mm]inutes': 'minutes',
    r'[Ee]pochs': 'epochs',
    r'[Ss]teps|[Ii]terations': 'steps',
    r'[Uu]pdates': 'updates',
}
"""Words of a comment or docstring, and the unit that they mean for a number."""
LONGEST_VALUE = 80
TITLES = ('model', 'data', 'schedule', 'runtime')
"""Of the pages, in the order of the bases of the paper's config."""
LEGEND = (
    'Defaults are those of `configs/thinktwice.py`. `${key}` is the value of another key and follows its '
    'overrides. Keys in *italics* are left to their class; a config or `--cfg-options` can set them too.'
)
DECLARED = get_type_hints(keys.ConfigKeys, include_extras=True)
DECLARED_COMMENTS: dict[str, str] = {}
"""Comments of ``thinktwice.config.keys`` by key; filled by ``pages``."""
Path_ = tuple[str, ...]


@dataclass
class Entry:
    """One key of a config.

    Attributes:
        value: Its value, references unresolved.
        comment: What its file says beside it and above it.
        part: Its dotted path, if it is a part with a section of its own.
    """

    value: Any
    comment: str
    part: str = ''


@dataclass
class Part:
    """A dict with ``type``, or the keys outside of any.

    Attributes:
        path: Where it is in the config.
        comment: What the file says about it.
        entries: Its keys by their path in it, those of parts inside of it left out.
    """

    path: Path_
    comment: str
    entries: dict[Path_, Entry] = field(default_factory=dict)


def pages() -> dict[str, str]:
    """Return the Markdown of the pages by file name."""
    DECLARED_COMMENTS.update({path[-1]: text for path, text in read_comments(Path(keys.__file__))[0].items()})
    cfg = Config.fromfile(PAPER)
    files = source_files(PAPER)
    seen: set[str] = set()
    markdown = {}
    for title, file in zip(TITLES, files, strict=False):
        comments, docstring = read_comments(file)
        names = [name for name in cfg if (name,) in comments and name not in seen and name[0] != '_']
        seen.update(names)
        lines = [f'# Config keys: {title}', f'{docstring} `configs/{file.relative_to(PAPER.parent)}`', LEGEND]
        for part in split_parts({name: cfg[name] for name in names}, comments):
            lines += section(part, cfg)
        markdown[f'config_{title}.md'] = join(lines)
    markdown[f'config_{TITLES[-1]}.md'] += unset_keys(cfg)
    return {**markdown, 'config_parts.md': parts_page()}


def unset_keys(cfg: Config) -> str:
    """The keys that are read and that no file of a config sets."""
    rows = [
        row((name,), type_text(annotation), '', '', DECLARED_COMMENTS.get(name, ''))
        for name, annotation in sorted(DECLARED.items())
        if name not in cfg
    ]
    return join(['', '## Keys that these files do not set', table(rows)])


def join(lines: list[str]) -> str:
    """Put blocks of Markdown below one another."""
    return '\n\n'.join(filter(None, lines)) + '\n'


def parts_page(config: Path = PAPER) -> str:
    """All registered parts of this package that a config does not name."""
    used = set(re.findall(r"type='(?:thinktwice\.)?(\w+)'", Config.fromfile(config).pretty_text))
    lines = ['# Other parts', 'Registered classes that `configs/thinktwice.py` does not name, by registry.']
    for part_registry in registries():
        classes = {
            name: target
            for name, target in sorted(part_registry.module_dict.items())
            if name not in used and is_ours(target)
        }
        if classes:
            lines.append(f'## {part_registry.name.capitalize()}')
        for name, target in classes.items():
            lines += [f'### {name}', summary(target), table(arguments(target, {}))]
    return join(lines)


def source_files(config: Path) -> list[Path]:
    """A config's bases, each before what is based on it, and the config."""
    files: list[Path] = []
    for node in ast.parse(config.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            for base in ast.literal_eval(node.value):
                files += source_files((config.parent / base).resolve())
    return [*files, config]


def read_comments(file: Path) -> tuple[dict[Path_, str], str]:
    """Comments of a config's keys by path, with an empty text for keys without, and its docstring."""
    text = file.read_text(encoding='utf-8')
    lines = text.splitlines()
    remarks = {
        token.start[0]: token.string.lstrip('# ')
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(('# fmt', '# noqa', '#:'))
    }
    alone = {number for number in remarks if lines[number - 1].lstrip().startswith('#')}

    def comment_of(node: ast.AST, first: int, is_only: bool) -> str:
        above = first
        while above - 1 in alone:
            above -= 1
        beside = {first, node.end_lineno} if is_only else {first}  # type: ignore[attr-defined]
        parts = [remarks[number] for number in sorted(beside) if number in remarks and number not in alone]
        return '. '.join(filter(None, (*parts, ' '.join(remarks[number] for number in range(above, first)))))

    comments: dict[Path_, str] = {}

    def visit(path: Path_, node: ast.AST, first: int) -> None:
        is_dict = isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict'
        is_list = isinstance(node, ast.List)
        spans_lines = node.end_lineno != first  # type: ignore[attr-defined]
        comments[path] = comment_of(node, first, not (spans_lines and (is_dict or is_list)))
        if is_dict:
            keywords = [keyword for keyword in node.keywords if keyword.arg]  # type: ignore[attr-defined]
            for keyword in keywords:
                visit((*path, keyword.arg), keyword.value, keyword.lineno)
                if keyword.lineno == first:  # the comment of one line is that of the whole
                    comments[*path, keyword.arg] = ''
            others = [keyword.arg for keyword in keywords if keyword.arg != 'type']
            if not spans_lines and len(others) == 1:  # or that of the only key
                comments[*path, others[0]], comments[path] = comments[path], ''
        if is_list:
            for index, item in enumerate(node.elts):  # type: ignore[attr-defined]
                visit((*path, str(index)), item, item.lineno)

    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            visit((node.target.id,), node.annotation, node.lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            visit((node.targets[0].id,), node.value, node.lineno)
    return comments, ast.get_docstring(tree) or ''


def split_parts(values: Mapping[str, Any], comments: Mapping[Path_, str]) -> Iterator[Part]:
    """Yield the keys outside of parts first, then each part."""
    parts = [Part((), '')]

    def visit(path: Path_, value: Any, part: Part) -> None:
        comment = comments.get(path, '')
        items: dict[str, Any] = {}
        if isinstance(value, dict):
            items = dict(value)
        elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            items = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and 'type' in value:
            part.entries[path[len(part.path) :]] = Entry(value['type'], comment, '.'.join(path))
            part = Part(path, comment)
            parts.append(part)
        elif not items or path[0] == 'data_modes':
            part.entries[path[len(part.path) :]] = Entry(value, comment)
            return
        for key, item in items.items():
            if key != 'type':
                visit((*path, key), item, part)

    for name, value in values.items():
        visit((name,), value, parts[0])
    yield from (part for part in parts if part.entries or part.path)


def section(part: Part, cfg: Config) -> list[str]:
    """Heading, summary and table of a part."""
    if not part.path:
        entries = part.entries.items()
        return [table([entry_row(path, entry, declared_type(path), '') for path, entry in entries])]
    node: Any = cfg
    for key in part.path:
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
    name = '.'.join(part.path)
    target = find_class(node['type'])
    comment = f'In the config: {part.comment}.' if part.comment else ''
    heading = f'## `{name}`: {node["type"]} {{ #{anchor(name)} }}'
    return [heading, summary(target), comment, table(arguments(target, part.entries))]


def anchor(name: str) -> str:
    """The anchor of a part's section."""
    return name.replace('.', '-')


def entry_row(path: Path_, entry: Entry, annotation: Any, text: str) -> str:
    """The row of a key that the config sets."""
    if entry.part:
        return row(path, 'part', '', '', f'[{entry.value}](#{anchor(entry.part)})')
    kind = type_text(annotation) or value_type(entry.value)
    comment = entry.comment or ('' if text else DECLARED_COMMENTS.get(path[-1], ''))
    return row(path, kind, text, value_text(entry.value), comment)


def value_type(value: Any) -> str:
    """The type of a value, empty for None and references."""
    if value is None or (isinstance(value, str) and value.startswith('${')):
        return ''
    items = {type(item).__name__ for item in value} if isinstance(value, (list, tuple)) else ()
    return f'{type(value).__name__}[{" | ".join(sorted(items))}, ...]' if items else type(value).__name__


def table(rows: list[str]) -> str:
    """Put rows under the header; docs/style.css shows them below one another on narrow screens."""
    body = HEADER + '\n'.join(rows)
    return f'<div class="keys" markdown>\n\n{body}\n\n</div>' if rows else 'It has no keys.'


def arguments(target: Any, entries: Mapping[Path_, Entry]) -> list[str]:
    """Rows of the keys that a config gives to a class, then of those that it leaves to the class."""
    signatures, texts = describe_arguments(target)
    rows = []
    for path, entry in entries.items():
        is_argument = len(path) == 1 and path[0] in signatures
        annotation = signatures[path[0]].annotation if is_argument else None
        rows.append(entry_row(path, entry, annotation, texts.get(path[0], '') if len(path) == 1 else ''))
    given = {path[0] for path in entries}
    for name, parameter in signatures.items():
        is_key = parameter.default is not parameter.empty and name not in given
        if is_key and name != 'init_cfg':
            kind = type_text(parameter.annotation) or value_type(parameter.default)
            rows.append(row((name,), kind, texts.get(name, ''), value_text(parameter.default), '', True))
    return rows


def describe_arguments(target: Any) -> tuple[dict[str, inspect.Parameter], dict[str, str]]:
    """Parameters of a class and of the bases that it hands its ``**kwargs`` to, and what their docs say."""
    signatures: dict[str, inspect.Parameter] = {}
    texts: dict[str, str] = {}
    for kind in inspect.getmro(target) if inspect.isclass(target) else (target,):
        texts = {**docstring_arguments(kind), **texts}
        if inspect.isclass(kind) and '__init__' not in vars(kind) and kind is not target:
            continue
        try:
            parameters = inspect.signature(kind).parameters
        except (ValueError, TypeError):
            break
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        signatures = {**{n: p for n, p in parameters.items() if p.kind not in kinds}, **signatures}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return signatures, texts


def docstring_arguments(target: Any) -> dict[str, str]:
    """What the ``Args`` of a Google-style docstring say, by name; of other packages the first sentence."""
    docstring = inspect.cleandoc(target.__doc__ or '')
    match = re.search(r'^Args:\n(.*?)(?=^\S|\Z)', docstring, re.MULTILINE | re.DOTALL)
    texts = {}
    for item in re.split(r'\n(?= {4}\w)', match.group(1).rstrip() if match else ''):
        if found := re.match(r'\s{4}\*{0,2}(\w+)(?: ?\([^)]*\))?:\s*(.*)', item, re.DOTALL):
            text = ' '.join(found.group(2).split())
            if not is_ours(target):
                text = re.split(r'(?<=[^.][.]) (?=[A-Z`])|,? ?\(?[Dd]efaults?\b', text)[0]
            texts[found.group(1)] = text
    return texts


def is_ours(target: Any) -> bool:
    """Whether a class is of this package."""
    return target.__module__.startswith('thinktwice.')


def row(path: Path_, kind: str, text: str, value: str, comment: str, is_left_out: bool = False) -> str:
    """One line of a table; a key that the config leaves to its class is in italics."""
    unit = (find_unit(comment) or find_unit(text)) if re.search(r'\b(?:int|float)\b', kind) else ''
    comment = '' if comment in (unit, 'iterations') else re.sub(rf'^{unit}\b[,:]? |, {unit}$', '', comment)
    comment = comment[:1].upper() + comment[1:]
    text = f'{text.rstrip(".")}.' if text and comment else text
    meaning = ' '.join(filter(None, (plain(text), comment))).replace('|', '\\|')
    name = f'`{".".join(path)}`'
    shown = f'`{value}`' if value else ''
    cells = (f'*{name}*' if is_left_out else name, f'`{kind}`' if kind else '', unit, shown, meaning)
    return f'| {" | ".join(cells)} |'


def plain(text: str) -> str:
    """A docstring's text as Markdown."""
    return re.sub(r':\w+:`([^`]+)`', r'`\1`', text).replace('``', '`')


def find_unit(text: str) -> str:
    """The unit that comes first in a text about a number, empty if there is none."""
    found = [
        (match.start(), unit)
        for pattern, unit in UNITS.items()
        if (match := re.search(rf"(?<![\w/`.'])(?:{pattern})(?![\w/`])", text))
    ]
    return min(found)[1] if found else ''


def value_text(value: Any) -> str:
    """A value as Python, shortened."""
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, (tuple, list)) and all(isinstance(item, float) for item in value) and value:
        brackets = '()' if isinstance(value, tuple) else '[]'
        value_string = f'{brackets[0]}{", ".join(f"{item:.4g}" for item in value)}{brackets[1]}'
    else:
        value_string = getattr(value, '__name__', None) or repr(value)
    return value_string if len(value_string) <= LONGEST_VALUE else f'{value_string[: LONGEST_VALUE - 4]} ...'


def type_text(annotation: Any) -> str:
    """An annotation as it is written in code, without modules."""
    if annotation in (None, inspect.Parameter.empty):
        return ''
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r'\b(?:\w+\.)+(\w+)', r'\1', text)
    text = re.sub(r'Annotated\[(\w+), ([^]]*)\]', r'\1 \2', text)
    text = re.sub(r'AtLeast\(lowest=([\d.]+)\)', r'>= \1', text)
    text = re.sub(r'AtMost\(highest=([\d.]+)\)', r'<= \1', text)
    text = re.sub(r'\b\w+Keys\b', 'dict', text)
    return re.sub(r'\bOptional\[(.*)\]$', r'\1 | None', text)


def declared_type(path: Path_) -> Any:
    """The declared type of a key, or None."""
    annotation: Any = DECLARED.get(path[0])
    for key in path[1:]:
        hints = get_type_hints(annotation, include_extras=True) if is_typeddict(annotation) else {}
        annotation = hints.get(key)
    return annotation


def summary(target: Any) -> str:
    """The first paragraph of a docstring, or of other packages the first sentence."""
    text = ' '.join((inspect.getdoc(target) or '').partition('\n\n')[0].split())
    return plain(text if is_ours(target) else text.partition('. ')[0].rstrip('.') + '.')


def registries() -> list[Registry]:
    """The registries of this package, their parts imported."""
    found = [value for value in vars(registry).values() if isinstance(value, Registry)]
    found = [value for value in found if value.scope == registry.SCOPE]
    for part_registry in found:
        part_registry.import_from_location()
    return found


def find_class(name: str) -> Any:
    """The class or function that a ``type`` of a config names.

    Raises:
        LookupError: No registry has it.
    """
    for part_registry in registries():
        if (target := part_registry.get(name)) is not None:
            return target
    raise LookupError(f'no registry has {name}')
