"""Packaging: the folder ``code/`` is imported as ``thinktwice``.

``code/`` itself has no ``__init__.py``: a regular package of that name in the
root folder would shadow the standard library's ``code`` and break ``pdb``.

The OpenMMLab packages are not declared as dependencies here: pip would install
theirs, which are many and not needed. ``make setup`` installs them with
``--no-deps``; ``thinktwice.environment`` prints the command if they are missing. A
wheel contains the pins as ``thinktwice/requirements``, and train.py, tools/ and
configs/ as ``thinktwice/project``, from where ``python -m thinktwice`` copies them.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'thinktwice' / 'project'
        shutil.rmtree(target, ignore_errors=True)  # files of an earlier build
        for name in ('tools', 'configs'):
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'train.py', target)


def read_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / 'code' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


def read_requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


setup(
    name='thinktwice',
    cmdclass={'build_py': BuildPackage},
    version=read_version(),
    description='Open-loop training framework for ThinkTwice (CVPR 2023)',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11,<3.14',
    install_requires=[*read_requirements('torch'), *read_requirements('runtime')],
    extras_require={name: read_requirements(name) for name in ('dev', 'ray', 'carla', 'timm', 'bench2drive')},
    package_dir={'thinktwice': 'code', 'thinktwice.requirements': 'requirements'},
    packages=[
        'thinktwice',
        'thinktwice.requirements',
        *(f'thinktwice.{name}' for name in find_packages('code')),
    ],
    package_data={'': ['py.typed', '*.json', '*/*.json', '*.npz', '*.txt']},
)
