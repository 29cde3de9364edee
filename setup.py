"""Packaging: the folder ``code/`` is imported as ``thinktwice``.

``code/`` itself has no ``__init__.py``: a regular package of that name at the
root would hide the standard library's ``code`` and break ``pdb``.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / 'code' / 'version.py').read_text(), namespace)
    return namespace['__version__']


setup(
    name='thinktwice',
    version=read_version(),
    description='Open-loop training framework for ThinkTwice (CVPR 2023)',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    package_dir={'thinktwice': 'code'},
    packages=['thinktwice', *(f'thinktwice.{name}' for name in find_packages('code'))],
    package_data={'thinktwice': ['py.typed', 'datasets/calibrations/*.json']},
)
