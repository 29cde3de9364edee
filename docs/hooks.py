"""What mkdocs builds besides the pages of this folder: see ``mkdocs.yml``.

README.md, CONTRIBUTING.md and CHANGELOG.md of the root become pages, and so do the keys of the configs and
the API.
"""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import config_reference  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {'index.md': 'README.md', 'contributing.md': 'CONTRIBUTING.md', 'changelog.md': 'CHANGELOG.md'}
API_PAGES = {
    'apis': ('Functions to call', ['apis', 'apis.train', 'apis.test']),
    'model': (
        'Model',
        [
            'encoder_decoder_framework',
            *(f'model_code.{name}' for name in ('scene', 'backbones', 'dense_heads', 'losses', 'ops')),
            *(f'model_code.{name}' for name in ('data_preprocessor', 'photometric', 'control', 'projection')),
        ],
    ),
    'data': (
        'Data',
        [
            'datasets',
            *(f'datasets.{name}' for name in ('pipelines', 'samplers', 'storage', 'packing')),
            *(f'datasets.{name}' for name in ('calibration', 'metadata', 'splits')),
        ],
    ),
    'training': ('Training', ['core', 'core.hooks', 'core.schedules', 'core.model_options']),
    'evaluation': (
        'Evaluation and pictures',
        ['core.evaluation', 'core.evaluation.functional', 'core.evaluation.reliance', 'core.visualization'],
    ),
    'driving': (
        'Driving',
        [
            'closed_loop',
            *(
                f'closed_loop.{name}'
                for name in ('agent', 'controllers', 'policies', 'evaluation', 'criteria')
            ),
        ],
    ),
    'town': ('Town', ['minitown']),
    'geometry': ('Geometry', ['geometry']),
    'base': (
        'Configs, checkpoints, ranks',
        ['config', 'checkpoint', 'distributed', 'registry', 'errors', 'environment'],
    ),
}
"""Title and modules of each page of the API."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    pages = {name: root_page(ROOT / source) for name, source in ROOT_PAGES.items()}
    pages |= config_reference.pages()
    for name, (title, modules) in API_PAGES.items():
        blocks = [f'::: thinktwice.{name}' for module in modules for name in documented_modules(module)]
        pages[f'api_{name}.md'] = '\n\n'.join([f'# {title}', *blocks])
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def documented_modules(name: str) -> list[str]:
    """A module or a package with ``__all__``, or the modules of a package without."""
    folder = ROOT / 'code' / name.replace('.', '/')
    if not folder.is_dir() or '__all__' in (folder / '__init__.py').read_text(encoding='utf-8'):
        return [name]
    return [f'{name}.{file.stem}' for file in sorted(folder.glob('[!_]*.py'))]


def root_page(file: Path) -> str:
    """The Markdown of a file of the root, its links as from docs/."""
    text = file.read_text(encoding='utf-8')
    for name, source in ROOT_PAGES.items():
        text = text.replace(f']({source}', f']({name}')
    text = re.sub(r'\[([^]]+)\]\(LICENSE\)', r'\1', text)
    text = re.sub(r'\[docs/(\w+\.md)\]', lambda match: f'[{title(ROOT / "docs" / match.group(1))}]', text)
    return text.replace('](docs/', '](')


def title(file: Path) -> str:
    """The first heading of a page."""
    return file.read_text(encoding='utf-8').partition('\n')[0].lstrip('# ')


def on_page_content(html: str, **_: object) -> str:
    """Show the roles of docstrings, such as ``:class:`Planner` ``, as code."""
    return re.sub(r':(?:class|func|meth|mod):(?=<code>)', '', html)
