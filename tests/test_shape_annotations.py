"""Shapes of tensors are annotated, checked in the tests, and cost nothing outside of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.type_checker import CHECKED_PACKAGES
from jaxtyping import TypeCheckError

from thinktwice.geometry.bev_grid import BEVGrid, to_teacher_orientation
from thinktwice.model_code.dense_heads import TeacherInputs

GRID = BEVGrid((0, 4, 1), (-1, 1, 1), (0, 1, 1))
WITHOUT_SHAPE = {'buffers'}  # scratch memory of mmcv's operators


def test_wrong_shapes_and_dtypes_are_errors_in_the_tests() -> None:
    with pytest.raises(TypeCheckError, match='points'):
        GRID.cell_index(torch.zeros(5, 2))
    with pytest.raises(TypeCheckError, match='points'):
        GRID.cell_index(torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(TypeCheckError, match='index_map'):
        to_teacher_orientation(torch.zeros(3))
    plan = torch.zeros(2, 4, 2)
    with pytest.raises(TypeCheckError, match='alpha'):
        TeacherInputs(plan, alpha=plan[:, 1:], beta=plan)


def test_without_the_import_hook_functions_are_not_wrapped(repository: Path) -> None:
    script = """
import sys, torch
from thinktwice.geometry.bev_grid import BEVGrid
from thinktwice.model_code.ops import splat
from thinktwice.model_code.dense_heads import CoarseHead, TeacherInputs
for function in (BEVGrid.cell_index, splat, CoarseHead.forward, TeacherInputs.__init__):
    assert not hasattr(function, '__wrapped__'), function
assert 'beartype' not in sys.modules
TeacherInputs(torch.zeros(1), torch.zeros(2), torch.zeros(3))
"""
    subprocess.run([sys.executable, '-c', script], cwd=repository, check=True)


def public_functions(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            yield node


def bare_tensors(annotation: ast.expr) -> bool:
    """Whether a ``Tensor`` stands outside of a shape such as ``Float[Tensor, 'B C']``."""
    shaped = {
        id(node.slice.elts[0])
        for node in ast.walk(annotation)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Tuple)
        and isinstance(node.slice.elts[-1], ast.Constant)
    }
    names = (node for node in ast.walk(annotation) if isinstance(node, ast.Name) and node.id == 'Tensor')
    return any(id(name) not in shaped for name in names)


@pytest.mark.parametrize('package', CHECKED_PACKAGES)
def test_every_public_function_names_the_shapes_of_its_tensors(repository: Path, package: str) -> None:
    path = repository / 'code' / package.replace('.', '/')
    missing = []
    for file in path.rglob('*.py') if path.is_dir() else [path.with_suffix('.py')]:
        for function in public_functions(ast.parse(file.read_text())):
            arguments = function.args
            every = [*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            annotations = {argument.arg: argument.annotation for argument in every if argument}
            annotations['return'] = function.returns
            missing += [
                f'{file.name}: {function.name}({name})'
                for name, annotation in annotations.items()
                if annotation and name not in WITHOUT_SHAPE and bare_tensors(annotation)
            ]
    assert not missing
